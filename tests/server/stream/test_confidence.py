"""What the model believes is speech, however it begins; what it makes up for noise is none."""

import pytest

from server.stream.confidence import is_speech

SPEECH = {
    "sure words": ("Yes.", (-0.1, -0.2)),
    "a single doubted word": ("No.", (-1.2, -0.4)),
    "a number that could be written in many ways": ("5, 5, 1, 2, 0, 9", (-6.8, *[-0.2] * 10)),
    "a long sentence with a doubted beginning": ("It was a very long sentence indeed", (-6.0, *[-0.5] * 9)),
}
NONE = {
    "a stock phrase": ("Thank you for watching.", (-3.9, -0.5, -0.4, -0.3, -0.4, -0.5)),
    "a filler": ("You", (-2.1,)),
    "a note sign": ("♪ Oh ♪", (-0.1, -0.1, -0.1)),
    "credits": ("© transcript", (-0.1, -0.1)),
    "dots": ("...", (-0.1,)),
}


@pytest.mark.parametrize("name", SPEECH)
def test_speech_is_believed(name):
    text, log_probs = SPEECH[name]
    assert is_speech(log_probs, text)


@pytest.mark.parametrize("name", NONE)
def test_what_is_made_up_is_not(name):
    text, log_probs = NONE[name]
    assert not is_speech(log_probs, text)
