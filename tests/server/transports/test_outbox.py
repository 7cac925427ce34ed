"""What one client is sent, however slowly it reads and however little it takes."""

import json
from dataclasses import dataclass, field

import pytest

from server.apis.native import messages
from server.apis.native.messages import FinalMessage, Init, Interim, SegmentMessage
from server.apis.native.writer import NativeWriter
from server.errors import ClientError, Code, ServerError
from server.stream.events import Failed
from server.stream.word_times import Word
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import HIGH_MARK_BYTES, SLOW_SECONDS, Outbox, TooLong

WORDS = tuple(Word(f"word{number}", number, number + 1) for number in range(40))
SEGMENT = SegmentMessage("text " * 20, 0, 40, WORDS)
FINAL = FinalMessage("a", "text " * 20, 100, (SEGMENT,), 40, 1.5, words=WORDS)
INTERIM = Interim("a", 0, "one", 0, 100, 12.5)


@dataclass
class FakeWire:
    """Takes messages up to a length."""

    is_open: bool = True
    unsent_bytes: int = 0
    longest: int = 1_000_000
    is_closing: bool = False
    sent: list[str] = field(default_factory=list)

    def send(self, text: str) -> bool:
        if len(text) > self.longest:
            raise TooLong
        if self.is_closing:
            return False
        self.sent.append(text)
        return True


class Sender:
    """An outbox and what can be seen of it."""

    def __init__(self, **wire):
        self.wire, self.metrics, self.now = FakeWire(**wire), Metrics(), 0.0
        self.given_up: list[ServerError] = []
        self.send = Outbox(Api.WEBRTC, self.wire, self.metrics, lambda: self.now, self.given_up.append).send

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def test_what_is_sent_is_counted_with_its_latency():
    sender = Sender()
    assert sender.send(INTERIM) and sender.send(FINAL)
    assert (
        sender.count("asr_messages_sent_total", api="webrtc", op="interim")
        == sender.count("asr_messages_sent_total", api="webrtc", op="final")
        == 1
    )
    assert sender.count("asr_message_latency_seconds_sum", api="webrtc", op="interim") == 0.0125


@pytest.mark.parametrize("wire", [{"is_open": False}, {"is_closing": True}])
def test_what_cannot_be_sent_is_not_counted(wire):
    sender = Sender(**wire)
    assert not sender.send(INTERIM) and not sender.send(FINAL)
    assert not sender.wire.sent and sender.count("asr_messages_sent_total", api="webrtc", op="interim") == 0
    assert sender.count("asr_message_latency_seconds_count", api="webrtc", op="final") == 0


def test_a_client_that_is_behind_is_spared_interims_and_nothing_else():
    sender = Sender(unsent_bytes=HIGH_MARK_BYTES + 1)
    assert not sender.send(INTERIM) and sender.send(FINAL)
    assert (
        sender.count("asr_interims_dropped_total") == 1
        and sender.count("asr_messages_sent_total", api="webrtc", op="interim") == 0
    )
    sender.wire.unsent_bytes = HIGH_MARK_BYTES
    assert sender.send(INTERIM)


def test_a_client_that_does_not_read_for_long_is_given_up_once():
    sender = Sender(unsent_bytes=HIGH_MARK_BYTES + 1)
    for second in range(int(SLOW_SECONDS) + 3):
        sender.now = float(second)
        sender.send(INTERIM)
    assert [error.code for error in sender.given_up] == [Code.SLOW_READER]


def test_a_client_that_reads_again_in_time_is_kept():
    sender = Sender()
    for second in range(60):
        sender.now, sender.wire.unsent_bytes = float(second), (second % 10) * HIGH_MARK_BYTES
        sender.send(INTERIM)
    assert not sender.given_up


@pytest.mark.parametrize(
    ("longest", "op", "fields"),
    [
        (len(FINAL.encode()), "final", ("words", "segments")),
        (len(FINAL.encode()) - 1, "final", ("segments",)),
        (300, "final", ()),
        (150, "error", ()),
    ],
)
def test_a_final_is_shortened_until_the_client_takes_it(longest, op, fields):
    sender = Sender(longest=longest)
    assert sender.send(FINAL)
    (text,) = sender.wire.sent
    message = json.loads(text)
    assert message["op"] == op and sender.count("asr_messages_sent_total", api="webrtc", op=op) == 1
    if op == "error":
        assert message["reason"] == "text_too_long"
    else:
        assert message["text"] == FINAL.text and bool(message.get("words")) == ("words" in fields)
        assert bool(message["segments"]) == ("segments" in fields)


def test_an_interim_that_is_too_long_is_left_out():
    sender = Sender(longest=20)
    assert not sender.send(INTERIM) and not sender.wire.sent


def test_an_error_that_keeps_too_much_text_is_said_without_it():
    dialect = NativeWriter(Init("a"))
    failed = Failed(Code.ENGINE_FAILED, "the engine has stopped", "text " * 1000, [], 100)
    sender = Sender(longest=500)
    assert sender.send(dialect.write(failed))
    assert json.loads(sender.wire.sent[0])["reason"] == "text_too_long"


def test_an_error_without_text_is_short():
    sender = Sender(longest=150)
    assert sender.send(messages.error(ClientError(Code.BAD_AUDIO, "a binary message has 3 bytes")))
    assert json.loads(sender.wire.sent[0])["reason"] == "bad_audio"
