"""The messages of the data channel, and their schema."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.apis.native import messages as native
from server.apis.native.messages import Close, Init
from server.apis.native.writer import NativeWriter
from server.errors import ClientError, Code
from server.stream.events import Failed, Final, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.transcript import Segment
from server.stream.word_times import Word

SEGMENTS = (
    Segment("one two", 0, 900, (Word("one", 0, 400), Word("two", 420, 900))),
    Segment("three", 900, 1500, (Word("three", 950, 1500),)),
)
PLAIN = tuple(Segment(each.text, each.start_ms, each.end_ms) for each in SEGMENTS)


def written(dialect: NativeWriter, event) -> dict:
    message = json.loads(dialect.write(event).encode())
    schema = native.json_schema()
    jsonschema.validate(message, schema | {"$ref": "#/$defs/ServerMessage"})
    return message


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("words", [False, True])
def test_every_event_is_written_as_the_schema_says(tail, words):
    segments = SEGMENTS if words else PLAIN
    events = (
        Update("one two th", 7, segments[:1], 1200, 31.25),
        SpeechStarted(300),
        SpeechStopped(1200),
        Flushed("one two three", segments, 1500, 80.0),
        Final("one two three", segments, 1500, 80.0),
        Failed(Code.ENGINE_FAILED, "the engine has stopped", "one two", segments[:1], 900),
    )
    for event in events:
        message = written(NativeWriter(Init("a", words=words, tail=tail)), event)
        is_turn = isinstance(event, SpeechStarted | SpeechStopped)
        assert message["sid"] == "a" and ("offset" in message) == (tail and not is_turn)
        if isinstance(event, Final):
            assert ("words" in message) == words and message["stable"] == len(message["text"])


def test_a_tail_begins_where_the_last_message_that_was_sent_left_off():
    dialect = NativeWriter(Init("a", tail=True))
    first = Update("one", 3, [], 400, 1.0)
    assert written(dialect, first)["offset"] == 0
    dropped = Update("one two", 7, PLAIN[:1], 900, 1.0)
    assert written(dialect, dropped)["seq"] == 0, "nothing was sent so far"
    dialect.confirm(first)
    message = written(dialect, Update("one two three", 7, PLAIN[:1], 1500, 1.0))
    assert (message["seq"], message["offset"], message["text"]) == (1, 3, " two three")
    assert [each["text"] for each in message["segments"]] == ["one two"]


@given(st.text(max_size=100) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_a_message_or_a_client_error(text):
    try:
        assert isinstance(native.parse_text(text), Init | Close)
    except ClientError as error:
        assert error.message and error.code in Code


INITS = st.fixed_dictionaries(
    {"op": st.just("init")},
    optional={
        "sid": st.text(min_size=1, max_size=64).filter(str.isprintable),
        "sr": st.just(16_000),
        "words": st.booleans(),
        "tail": st.booleans(),
        "unknown": st.integers(),
    },
)


@given(INITS)
def test_an_init_of_the_schema_is_taken_as_it_was_meant(message):
    init = native.parse_text(json.dumps(message))
    assert (init.words, init.tail) == (message.get("words", False), message.get("tail", False))
    assert init.sid == message.get("sid", init.sid) and init.sid


def test_what_was_flushed_is_not_said_again_with_tail():
    dialect = NativeWriter(Init("a", tail=True))
    flushed = Flushed("one two", PLAIN[:1], 900, 5.0)
    written(dialect, flushed)
    dialect.confirm(flushed)
    message = written(dialect, Update("one two three", 7, PLAIN[:1], 1500, 1.0))
    assert (message["offset"], message["text"], message["segments"]) == (7, " three", [])
