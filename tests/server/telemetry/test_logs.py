"""The log: one line for a session, as JSON where that is asked for, and no word of what was said unless it is."""

import json
import logging
import sys

import pytest

from server.access import Caller
from server.errors import Code
from server.sessions.record import Record
from server.stream.events import Failed, Final, Flushed, Update
from server.telemetry.logs import FIELDS, JsonFormatter, log_fields


def told(session_id: str = "session-1") -> Record:
    record = Record(session_id, "webrtc", Caller("shop", address="192.0.2.1"), opened_at=10.0)
    for latency_ms in (100.0, 200.0, 900.0):
        assert record.observe("a", Update("a secret", 1, [], 500, latency_ms)) is None
    record.audio_seconds = 12.34
    return record


def test_a_session_s_line_says_what_matters_and_nothing_that_was_said():
    record = told()
    record.observe("a", Final("a secret word", [], 1000, 250.4))
    fields = record.fields("final", now=25.0, with_text=False)
    assert fields == {
        "session": "session-1",
        "ended": "final",
        "api": "webrtc",
        "caller": "shop",
        "address": "192.0.2.1",
        "seconds": 15.0,
        "audio_seconds": 12.3,
        "words": 3,
        "updates": 3,
        "update_ms": 200,
        "final_ms": 250,
    }
    assert record.fields("final", 25.0, with_text=True)["text"] == "a secret word"


def test_a_session_that_is_left_or_fails_keeps_its_stable_words():
    record = told()
    assert record.fields("left", 25.0, False)["words"] == 1, "of the newest update the first letter is stable"
    record.observe("a", Failed(Code.ENGINE_FAILED, "gone", "a secret", [], 100))
    record.observe("b", Flushed("of two streams", [], 100, 20.0))
    fields = record.fields("engine_failed", 25.0, with_text=True)
    assert (fields["ended"], fields["words"], fields["text"]) == ("engine_failed", 5, "a secret of two streams")


@pytest.mark.parametrize("text", ["plain", 'über\n{"a": 1}\u2028', "100% {}"])
def test_every_record_is_one_line_of_json_that_can_be_read(text):
    lines = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.Logger("test")
    handler = Handler()
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.warning("%s", text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.error("it failed", exc_info=sys.exc_info())
    log_fields(logger, "a session has ended", {"session": text, "seconds": 1.5})
    first, failed, session = map(json.loads, lines)
    assert all(len(line.splitlines()) == 1 or "\u2028" in line for line in lines)
    assert first["message"] == text and first["level"] == "warning" and first["time"].endswith("+00:00")
    assert "RuntimeError" in failed["exception"]
    assert session["message"] == "a session has ended" and session["session"] == text and session["seconds"] == 1.5
    assert FIELDS not in session
