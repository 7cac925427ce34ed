"""What the operator sees of a session, whichever API it speaks: the log's line, the trace and the metrics, for every end."""

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from runtime.scheduler.requests import Request, Result
from runtime.scheduler.transcriber import Status
from runtime.tokenizer import Tokenizer
from server.apis.audiosocket.session import CallSession
from server.apis.broadcast.session import BroadcastSession
from server.apis.deepgram import query as deepgram
from server.apis.deepgram.session import DeepgramSession
from server.apis.native.messages import Server
from server.apis.native.session import NativeSession
from server.apis.openai.messages import Configuration
from server.apis.openai.session import RealtimeSession
from server.apis.twilio.session import TwilioSession
from server.apis.wyoming import messages as wyoming
from server.apis.wyoming.session import UtteranceSession
from server.errors import Code, Refused, ServerError
from server.sessions import registry
from server.sessions.recording import Recording, whole
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.sessions.session import PLAIN
from server.settings import Access, SessionLimits, Settings
from server.telemetry.logs import FIELDS
from server.telemetry.metrics import Api, Metrics
from server.telemetry.tracing import Trace
from tests.server.sessions.test_registry import FakeTranscriber

TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two"])
LIMITS = SessionLimits(max_session_seconds=60, idle_timeout_seconds=30, init_timeout_seconds=10, close_timeout_seconds=20)
ENCODINGS = {
    "pcm16": (2, lambda samples: samples.tobytes()),
    "mulaw": (1, lambda samples: bytes([0x80, 0x00] * (len(samples) // 2))),
    "alaw": (1, lambda samples: bytes([0xAA, 0x2A] * (len(samples) // 2))),
}


@dataclass
class Recorder(Trace):
    """A trace that keeps what it is told."""

    ends: list[tuple[dict[str, Any], str | None]] = field(default_factory=list)

    def end(self, fields, error) -> None:
        self.ends.append((dict(fields), error))


@dataclass
class Operator:
    """One process, a clock that the test moves, and everything that is reported of its sessions."""

    lines: list[dict[str, Any]]
    now: float = 0.0
    transcriber: FakeTranscriber = field(default_factory=FakeTranscriber)
    metrics: Metrics = field(default_factory=Metrics)
    trace: Recorder = field(default_factory=Recorder)
    max_sessions: int = 4

    def __post_init__(self) -> None:
        settings = Settings(access=Access(max_sessions=self.max_sessions), session=LIMITS)
        self.sessions = Sessions(
            self.transcriber, TOKENIZER, settings, self.metrics, lambda: self.now, lambda session_id, api: self.trace
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def settle(self) -> None:
        """Let the clock's next tick and all results come."""
        await self.sessions.until_tick()
        for _ in range(5):
            await asyncio.sleep(0)

    def check_end(self, api: Api, reason: str) -> dict[str, Any]:
        """Log, trace and metrics agree on how the one session ended; returns the log's fields."""
        (line,), ((traced, error),) = self.lines, self.trace.ends
        line.pop("message", None)
        failed = reason not in ("final", "left")
        assert (line["ended"], line["api"]) == (reason, api.value) and traced == line
        assert error == (reason if failed else None)
        assert self.count("asr_session_errors_total", api=api.value, reason=reason) == failed
        total = sum(self.count("asr_session_errors_total", api=each.value, reason=code.value) for each in Api for code in Code)
        assert total == failed, "an error is counted once, by its own name"
        assert self.count("asr_sessions_open", api=api.value) == 0 and self.count("asr_sessions_total", api=api.value) == 1
        assert len(self.sessions) == 0 and self.sessions.counts().sessions == 0 and not self.transcriber.lost
        return line


@pytest.fixture(autouse=True)
def ticks_at_once(monkeypatch) -> None:
    """The clock that sessions see is the test's own; how often it is looked at need not take time."""
    monkeypatch.setattr(registry, "TICK_SECONDS", 0.001)


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The fields of the log's lines about sessions."""
    found: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(getattr(record, FIELDS)) if hasattr(record, FIELDS) else None
    logger = logging.getLogger("server.sessions.seat")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)


def send(message: object) -> bool:
    return True


def sound(rate: int, encoding: str = "pcm16", seconds: float = 1.0) -> bytes:
    samples = np.random.default_rng(0).integers(-8000, 8000, int(rate * seconds), dtype=np.int16)
    samples[np.arange(len(samples)) // (rate // 10) % 2 == 1] //= 8
    return ENCODINGS[encoding][1](samples)


@dataclass
class Way:
    """One API: how a session begins, sends a second of audio, and asks for its end."""

    api: Api
    begin: Callable[[Sessions], Seat]
    speak: Callable[[Seat], None] = lambda seat: seat.receive_audio(sound(16_000))
    finish: Callable[[Seat], None] = lambda seat: seat.finish()
    idle_seconds: float = LIMITS.idle_timeout_seconds


def native(sessions: Sessions, rate: int = 16_000) -> Seat:
    seat = sessions.take_seat(Api.WEBSOCKET, waits=True)
    NativeSession(seat, LIMITS, Server(32, "r"), send)
    seat.receive_text(json.dumps({"op": "init", "sr": rate}))
    return seat


def realtime(sessions: Sessions, audio_format: dict[str, Any] | None = None) -> Seat:
    seat = sessions.take_seat(Api.OPENAI_REALTIME)
    RealtimeSession(seat, LIMITS.idle_timeout_seconds, Configuration("moonshine-base"), send)
    audio = {"format": audio_format or {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
    seat.receive_text(json.dumps({"type": "session.update", "session": {"audio": {"input": audio}}}))
    return seat


def call(sessions: Sessions) -> Seat:
    seat = sessions.take_seat(Api.OPENAI_REALTIME, waits=True)
    RealtimeSession(seat, LIMITS.idle_timeout_seconds, Configuration("moonshine-base"), send, has_track=True)
    return seat


def listen(sessions: Sessions, encoding: str = "linear16", rate: int = 16_000) -> Seat:
    seat = sessions.take_seat(Api.DEEPGRAM)
    query = {"encoding": encoding, "sample_rate": str(rate)}
    DeepgramSession(seat, deepgram.parse([*query.items()], "moonshine-base"), "moonshine-base", send)
    return seat


def utterance(sessions: Sessions, rate: int = 16_000) -> Seat:
    seat = sessions.take_seat(Api.WYOMING)
    UtteranceSession(seat, wyoming.audio_format({"rate": rate}), LIMITS.idle_timeout_seconds, "en", send)
    return seat


def broadcast(sessions: Sessions) -> Seat:
    seat = sessions.take_seat(Api.WHIP, waits=True)
    BroadcastSession(seat, LIMITS.idle_timeout_seconds)
    return seat


def twilio_call(sessions: Sessions) -> Seat:
    seat = sessions.take_seat(Api.TWILIO, waits=True)
    TwilioSession(seat, LIMITS, "desk", lambda key: None, lambda name: None)
    seat.receive_text(json.dumps({"event": "start", "streamSid": "MZ1", "start": {"streamSid": "MZ1"}}))
    return seat


def send_media(seat: Seat) -> None:
    media = {"track": "inbound", "payload": base64.b64encode(sound(8000, "mulaw")).decode()}
    seat.receive_text(json.dumps({"event": "media", "streamSid": "MZ1", "media": media}))


def audiosocket_call(sessions: Sessions) -> Seat:
    seat = sessions.take_seat(Api.AUDIOSOCKET, waits=True)
    CallSession(seat, LIMITS, lambda name: None)
    seat.receive_audio(b"\x01" + bytes(16))
    return seat


def append(seat: Seat, audio: bytes) -> None:
    seat.receive_text(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}))


WAYS = {
    "native": Way(Api.WEBSOCKET, native, finish=lambda seat: seat.receive_text('{"op":"close"}')),
    "realtime": Way(Api.OPENAI_REALTIME, realtime, speak=lambda seat: append(seat, sound(16_000))),
    "call": Way(Api.OPENAI_REALTIME, call),
    "deepgram": Way(Api.DEEPGRAM, listen, finish=lambda seat: seat.receive_text('{"type":"CloseStream"}'), idle_seconds=10.0),
    "wyoming": Way(Api.WYOMING, utterance),
    "whip": Way(Api.WHIP, broadcast),
    "twilio": Way(
        Api.TWILIO, twilio_call, send_media, lambda seat: seat.receive_text('{"event":"stop","streamSid":"MZ1","stop":{}}')
    ),
    "audiosocket": Way(
        Api.AUDIOSOCKET,
        audiosocket_call,
        lambda seat: seat.receive_audio(b"\x10" + sound(8000)),
        lambda seat: seat.receive_audio(b"\x00"),
    ),
}


def play(operator: Operator, scenario: Callable[[], Any]) -> None:
    async def run() -> None:
        operator.sessions.start()
        await operator.sessions.until_warm()
        await scenario()
        await operator.sessions.shut_down(1.0)

    asyncio.run(asyncio.wait_for(run(), 20.0))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_session_that_is_closed_has_its_final_its_words_and_its_audio(way, lines):
    operator = Operator(lines)

    async def scenario() -> None:
        seat = way.begin(operator.sessions)
        way.speak(seat)
        await operator.settle()
        way.finish(seat)
        await operator.settle()

    play(operator, scenario)
    line = operator.check_end(way.api, "final")
    assert line["audio_seconds"] == 1.0 and line["words"] == 2 and line["final_ms"] >= 0
    assert operator.count("asr_audio_seconds_total") == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_session_whose_client_leaves_keeps_the_words_that_it_was_sent(way, lines):
    operator = Operator(lines)

    async def scenario() -> None:
        seat = way.begin(operator.sessions)
        for _ in range(3):
            way.speak(seat)
            operator.now += 1.0
            await operator.settle()
        seat.leave()

    play(operator, scenario)
    line = operator.check_end(way.api, "final" if way.api is Api.TWILIO else "left")  # whose words are read to the end
    assert line["words"] >= 1 and line["updates"] >= 1 and line["audio_seconds"] == pytest.approx(3.0, abs=0.1)


async def be_idle(operator: Operator, seat: Seat, way: Way) -> None:
    operator.now += way.idle_seconds + 1.0
    await operator.settle()
    await operator.settle()


async def lose_the_engine(operator: Operator, seat: Seat, way: Way) -> None:
    next(iter(operator.transcriber.lost.values()))("the engine process has died")


async def hang(operator: Operator, seat: Seat, way: Way) -> None:
    operator.transcriber.said = Status.HUNG
    await operator.settle()


async def shut_down(operator: Operator, seat: Seat, way: Way) -> None:
    operator.transcriber.submit = lambda request, on_result: None  # it answers nobody any more
    await operator.sessions.finish_all(0.05)


async def last_too_long(operator: Operator, seat: Seat, way: Way) -> None:
    while operator.now <= LIMITS.max_session_seconds:
        operator.now += way.idle_seconds - 1.0
        way.speak(seat)
        await operator.settle()


async def not_read(operator: Operator, seat: Seat, way: Way) -> None:
    seat.fail_soon(ServerError(Code.SLOW_READER, "messages are not read"))


async def meet_a_defect(operator: Operator, seat: Seat, way: Way) -> None:
    def answers(request: Request) -> Result:
        return Result(request, (3, 99), (-0.1, -0.1))  # no such token

    operator.transcriber.answers = answers
    operator.now += 1.0
    way.speak(seat)


ENDS = {
    "idle_timeout": be_idle,
    "engine_failed": lose_the_engine,
    "engine_failed ": hang,
    "shutting_down": shut_down,
    "session_too_long": last_too_long,
    "slow_reader": not_read,
    "internal_error": meet_a_defect,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_session_that_fails_is_reported_by_the_error_s_name(way, end, lines):
    """Sessions of Deepgram, Wyoming and OpenAI used to be logged as left, and the alarm did not see them."""
    operator = Operator(lines)

    async def scenario() -> None:
        seat = way.begin(operator.sessions)
        way.speak(seat)
        await operator.settle()
        await ENDS[end](operator, seat, way)
        await operator.settle()

    play(operator, scenario)
    operator.check_end(way.api, end.strip())


@pytest.mark.parametrize("way", [WAYS["realtime"], WAYS["deepgram"]], ids=["realtime", "deepgram"])
def test_a_session_that_fails_before_any_audio_is_reported_too(way, lines):
    operator = Operator(lines)

    async def scenario() -> None:
        await be_idle(operator, way.begin(operator.sessions), way)

    play(operator, scenario)
    assert operator.check_end(way.api, "idle_timeout")["words"] == 0


def test_a_connection_that_never_says_init_is_reported(lines):
    operator = Operator(lines)

    async def scenario() -> None:
        seat = operator.sessions.take_seat(Api.WEBRTC, waits=True)
        NativeSession(seat, LIMITS, Server(32, "r"), send)
        operator.now += LIMITS.init_timeout_seconds + 1.0
        await operator.settle()

    play(operator, scenario)
    operator.check_end(Api.WEBRTC, "init_timeout")


def test_a_session_that_finds_no_place_any_more_is_reported(lines):
    operator = Operator(lines, max_sessions=1)

    async def scenario() -> None:
        late = operator.sessions.take_seat(Api.WHIP, waits=True)
        BroadcastSession(late, 30.0)
        first = native(operator.sessions)
        late.receive_audio(sound(16_000))
        assert [line["ended"] for line in lines] == ["server_full"]
        first.leave()

    play(operator, scenario)
    assert operator.count("asr_offers_refused_total", reason="server_full") == 1


FORMATS = {
    **{
        f"{name} at {rate}": (lambda sessions, begin=begin, rate=rate: begin(sessions, rate), rate, "pcm16")
        for name, begin in (("native", native), ("wyoming", utterance))
        for rate in (8000, 16_000, 22_050, 24_000, 44_100, 48_000)
    },
    **{
        f"deepgram {encoding} at {rate}": (lambda sessions, name=name, rate=rate: listen(sessions, name, rate), rate, encoding)
        for name, encoding, rate in (
            ("linear16", "pcm16", 8000),
            ("linear16", "pcm16", 48_000),
            ("mulaw", "mulaw", 8000),
            ("alaw", "alaw", 8000),
            ("mulaw", "mulaw", 16_000),
        )
    },
}
REALTIME_FORMATS = {
    "pcm at 24000": ({"type": "audio/pcm", "rate": 24_000}, 24_000, "pcm16"),
    "pcm at 8000": ({"type": "audio/pcm", "rate": 8000}, 8000, "pcm16"),
    "pcmu": ({"type": "audio/pcmu"}, 8000, "mulaw"),
    "pcma": ({"type": "audio/pcma"}, 8000, "alaw"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_second_is_a_second_at_every_rate_and_format(name, lines):
    """It used to count as three from a browser at 48 kHz, and as a quarter in G.711."""
    operator, (begin, rate, encoding) = Operator(lines), FORMATS[name]

    async def scenario() -> None:
        seat = begin(operator.sessions)
        for start in range(10):
            piece = sound(rate, encoding, 0.1)
            assert len(piece) == rate // 10 * ENCODINGS[encoding][0], f"piece {start}"
            seat.receive_audio(piece)
        await operator.settle()
        seat.finish()
        await operator.settle()

    play(operator, scenario)
    assert lines[0]["audio_seconds"] == 1.0
    assert operator.count("asr_audio_seconds_total") == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", REALTIME_FORMATS)
def test_a_second_of_base64_is_a_second(name, lines):
    """It used to count as none."""
    operator, (audio_format, rate, encoding) = Operator(lines), REALTIME_FORMATS[name]

    async def scenario() -> None:
        seat = realtime(operator.sessions, audio_format)
        append(seat, sound(rate, encoding))
        await operator.settle()
        seat.finish()
        await operator.settle()

    play(operator, scenario)
    assert lines[0]["audio_seconds"] == 1.0
    assert operator.count("asr_audio_seconds_total") == pytest.approx(1.0, abs=0.03)


def test_a_recording_that_cannot_be_decoded_is_reported_by_the_error_s_name(lines):
    operator = Operator(lines)

    async def broken():
        yield sound(16_000)
        raise ServerError(Code.INVALID_FILE, "it cannot be decoded")

    async def scenario() -> None:
        recording = Recording(operator.sessions.take_seat(Api.OPENAI_REST))
        with pytest.raises(ServerError):
            await whole(recording.transcribe(broken(), PLAIN, parallel=2))

    play(operator, scenario)
    operator.check_end(Api.OPENAI_REST, "invalid_file")


def test_a_recording_has_its_audio_and_words(lines):
    operator = Operator(lines)

    async def seconds():
        for _ in range(50):
            yield sound(16_000)

    async def scenario() -> None:
        recording = Recording(operator.sessions.take_seat(Api.DEEPGRAM))
        found = await whole(recording.transcribe(seconds(), PLAIN, parallel=2))
        assert found.seconds == 50.0

    play(operator, scenario)
    line = operator.check_end(Api.DEEPGRAM, "final")
    assert line["audio_seconds"] == 50.0 and line["words"] == 4, "two words in each of two chunks"


def test_whoever_is_refused_is_counted_and_leaves_no_line(lines):
    operator = Operator(lines, max_sessions=1)

    async def scenario() -> None:
        first = native(operator.sessions)
        with pytest.raises(Refused):
            operator.sessions.take_seat(Api.DEEPGRAM)
        assert not lines and operator.count("asr_offers_refused_total", reason="server_full") == 1
        first.leave()

    play(operator, scenario)
