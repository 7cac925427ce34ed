"""Several channels in one session: each says what a session of its own would say."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Request, Result
from server.errors import Code
from tests.server.apis.native.test_session import TOKENIZER, Stream

FRAME = 320


def sound(seed: int, seconds: float, loudness: int) -> np.ndarray:
    samples = np.random.default_rng(seed).integers(-loudness, loudness, int(seconds * SAMPLE_RATE), dtype=np.int16)
    samples[np.arange(len(samples)) // 1600 % 2 == 1] //= 8
    return samples


def answer_all(stream: Stream, answered: int) -> int:
    """Answer each request by what its audio is; returns how many there were."""
    while answered < len(stream.requests):
        request: Request = stream.requests[answered]
        answered += 1
        loudest = int(np.abs(request.clip.samples).max())
        tokens = (*request.draft[: request.forced], 3 + loudest % 3) if loudest else request.draft[: request.forced]
        stream.seat.deliver(Result(request, tokens, (-0.01,) * len(tokens)), stream.now)
    return answered


def run(stream: Stream, channels: list[np.ndarray], texts: list[str]) -> list[dict]:
    """Stream audio, with one text message after each part of it; returns what was said."""
    answered = 0
    for part, text in zip(np.array_split(np.stack(channels, axis=1), len(texts)), texts, strict=True):
        for start in range(0, len(part), FRAME):
            stream.now += FRAME / SAMPLE_RATE
            stream.session.on_audio(part[start : start + FRAME].tobytes(), stream.now)
            answered = answer_all(stream, answered)
        stream.text(json.dumps({"op": text}))
        answered = answer_all(stream, answered)
    return stream.messages


@given(
    loudnesses=st.lists(st.sampled_from([1, 3000, 9000]), min_size=2, max_size=4),
    texts=st.lists(st.sampled_from(["keyterms", "flush"]), max_size=3),
    tail=st.booleans(),
)
def test_each_channel_says_what_a_session_of_its_own_says(loudnesses, texts, tail):
    flags = {"tail": tail, "silence_ms": 300}
    channels = [sound(seed, 2.0, loudness) for seed, loudness in enumerate(loudnesses)]
    together = Stream().init(channels=len(channels), **flags)
    said = run(together, channels, [*texts, "close"])
    for channel, audio in enumerate(channels):
        alone = run(Stream().init(**flags), [audio], [*texts, "close"])
        assert [message for message in said if message["channel"] == channel] == [{**each, "channel": channel} for each in alone]
    assert together.seat.places == len(channels) and together.seat.ended == ["final"]


def test_a_session_of_one_channel_names_none():
    assert all("channel" not in message for message in run(Stream().init(channels=1), [sound(0, 1.0, 9000)], ["close"]))


def test_a_failure_of_one_channel_ends_all_and_each_says_what_may_be_kept():
    stream = Stream(max_buffer_seconds=1.0).init(channels=3)
    loud = np.stack([sound(seed, 1.5, 9000) for seed in range(3)], axis=1)
    stream.session.on_audio(loud.tobytes()[: 2 * 3 * SAMPLE_RATE * 3 // 2], 0.0)
    errors = [message for message in stream.messages if message["op"] == "error"]
    assert [message["channel"] for message in errors] == [0, 1, 2] and len(stream.seat.ended) == 1
    assert {message["reason"] for message in errors} == {Code.BUFFER_OVERFLOW}


def test_a_pulse_says_what_all_channels_have_told():
    stream = Stream().init(channels=2, pulse=True)
    both = np.stack([sound(0, 1.0, 9000), np.zeros(SAMPLE_RATE, np.int16)], axis=1)
    stream.session.on_audio(both.tobytes(), 1.0)
    stream.now = 2.5
    stream.session.on_time(stream.now)
    assert stream.messages[-1] == {"op": "pulse", "sid": "abc", "audio_ms": 0}


@pytest.mark.parametrize("channels", [0, 9, -1, 1.5, "two", True])
def test_as_many_channels_as_cannot_be_are_refused(channels):
    stream = Stream()
    stream.text(json.dumps({"op": "init", "channels": channels}))
    assert stream.error["reason"] == Code.BAD_MESSAGE and "channels" in stream.error["message"]


TEXT = {
    "numerals": (True, "111 cats"),
    "redact": (["numbers"], "[NUMBER] cats"),
    "replace": ({"cats": "dogs"}, "one one one dogs"),
}
SPELLED = [3, 3, 3, 7, *(8 + "abcdefghijklmnopqrstuvwxyz".index(letter) for letter in "cats")]


@pytest.mark.parametrize("name", TEXT)
def test_an_option_of_the_text_changes_all_that_is_said(name):
    value, written = TEXT[name]
    assert TOKENIZER.text(SPELLED) == "one one one cats"
    stream = Stream().init(words=True, **{name: value})
    for _ in range(3):
        stream.sound(0.6)
        stream.answer(*SPELLED, log_prob=-0.01)
    stream.text('{"op":"close"}')
    stream.answer(*SPELLED, log_prob=-0.01)
    final = stream.messages[-1]
    assert final["text"] == written == " ".join(word["w"] for word in final["words"])
    stable = ""
    for message in stream.messages:
        assert message["text"].startswith(stable)
        stable = message["text"][: message["stable"]]
    assert name != "redact" or "one" not in " ".join(message["text"] for message in stream.messages)


@pytest.mark.parametrize(("from_ms", "is_masked"), [(0, False), (4000, True)])
def test_a_number_that_may_have_begun_in_another_session_is_masked(from_ms, is_masked):
    stream = Stream().init(redact=["pci"], from_ms=from_ms)
    stream.sound(0.6)
    stream.answer(3, 3, 3, 7, 8, log_prob=-0.01)
    stream.text('{"op":"close"}')
    stream.answer(3, 3, 3, 7, 8, log_prob=-0.01)
    assert stream.messages[-1]["text"] == ("[NUMBER] a" if is_masked else "one one one a")


@pytest.mark.parametrize("by_server", [False, True])
def test_a_number_that_may_go_on_in_another_session_is_masked(by_server):
    stream = Stream().init(redact=["pci"])
    stream.sound(0.6)
    stream.answer(3, 3, 3, log_prob=-0.01)
    if by_server:
        stream.session.finish(stream.now, is_cut=True)
    else:
        stream.text('{"op":"close"}')
    stream.answer(3, 3, 3, log_prob=-0.01)
    assert stream.messages[-1]["text"] == ("[NUMBER]" if by_server else "one one one")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("redact", ["pii"]),
        ("redact", "pci"),
        ("replace", {"": "x"}),
        ("replace", {"x": "y" * 101}),
        ("replace", {"x\n": "y"}),
        ("replace", {str(number): "x" for number in range(201)}),
        ("replace", {"x": 5}),
        ("numerals", "yes"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(field, value):
    stream = Stream()
    stream.text(json.dumps({"op": "init", field: value}))
    assert field in stream.error["message"]
