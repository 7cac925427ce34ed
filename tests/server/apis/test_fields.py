"""Whatever type a client's fields have, they are taken or refused by name when they come, never met as a defect later."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from server.apis.json_text import encoded
from server.apis.openai import shapes as realtime_shapes
from server.apis.openai.messages import MOST_CONFIGURATION_CHARACTERS, Configuration, event_of
from server.apis.wyoming import messages as wyoming
from server.errors import ClientError

ODD = (None, True, 5, -1, 1e300, "", "text", "\ud800", [], [5], {}, {"type": 5}, [["en"]], "null")
SESSION = {
    "type": "transcription",
    "include": ["item.input_audio_transcription.logprobs"],
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "noise_reduction": {"type": "near_field"},
            "transcription": {"model": "whisper-1", "language": "en", "languages": ["en"], "prompt": "words", "keywords": ["a"]},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500, "prefix_padding_ms": 300, "eagerness": "auto"},
        }
    },
}
MESSAGES = (
    {
        "type": "transcription_session.update",
        "session": {
            "input_audio_format": "pcm16",
            "input_audio_transcription": {},
            "turn_detection": {"type": "server_vad"},
            "input_audio_params": {"sample_rate_hz": 16_000, "num_channels": 1},
            "word_boosting": {"enable_word_boosting": True, "word_boosting_list": [{"phrases": ["a"], "boost": 1.0}]},
        },
    },
    {"type": "input_audio_buffer.append", "audio": "", "runtime_config": {"force_eou": "true"}},
    {"type": "session.update", "model": "whisper-1"},
    {"type": "input_audio_buffer.commit", "final": True, "event_id": "a"},
)


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Of every field, however deep."""
    if at:
        yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from places(child, (*at, name))


def changed(value: Any, at: tuple, odd: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = odd
    return value


@pytest.mark.parametrize("at", places(SESSION), ids=lambda at: ".".join(map(str, at)))
def test_a_session_of_openai_is_taken_or_refused(at):
    for odd in ODD:
        configuration = Configuration("moonshine-base")
        before = configuration.as_json()
        try:
            configuration.update(changed(SESSION, at, odd))
        except ClientError:
            assert configuration.as_json() == before, "what is refused changes nothing"
        assert configuration.prefix_ms >= 0 and configuration.options is not None
        event_of("session.updated", session=configuration.as_json()).encode().encode()


@pytest.mark.parametrize("shape", [realtime_shapes.BetaShape, realtime_shapes.RivaShape, realtime_shapes.VllmShape])
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_a_message_of_another_shape_is_taken_or_refused(shape, message):
    for at in places(message):
        for odd in ODD:
            configuration = Configuration("moonshine-base")
            try:
                meant = shape().read(changed(message, at, odd))
                if meant is not None and meant.get("type") == "session.update":
                    configuration.update(meant.get("session"))
            except ClientError:
                continue


def test_a_large_session_is_refused_for_all_of_it_comes_back_at_every_change():
    configuration = Configuration("moonshine-base")
    with pytest.raises(ClientError, match="characters at most"):
        configuration.update(changed(SESSION, ("audio", "input", "transcription", "prompt"), "x" * MOST_CONFIGURATION_CHARACTERS))


@pytest.mark.parametrize("text", ["plain", "Zoë", "\ud800", "Zoë \udfff", '{"a": 1}\n'])
def test_json_is_one_line_that_utf8_can_carry(text):
    line = encoded({"text": text})
    assert json.loads(line.encode().decode()) == {"text": text} and "\n" not in line


def test_a_pong_carries_whatever_the_ping_had():
    for odd in ODD:
        wyoming.pong({"text": odd}).encode().encode()
