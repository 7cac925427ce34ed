"""The messages between client and server: parsed and checked coming in, built going out. No state, no I/O."""

import enum
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from runtime.audio import SAMPLE_RATE
from server.stream.transcript import Segment

MAX_TEXT_BYTES = 4096  # of a client's JSON message
MAX_AUDIO_BYTES = 5 * SAMPLE_RATE * 2  # of one binary message: 5 s; SCTP as aiortc speaks it ends at 256 KiB
MAX_SID_CHARACTERS = 64


class Reason(enum.StrEnum):
    """Error codes on the wire."""

    BAD_MESSAGE = "bad_message"
    UNKNOWN_OP = "unknown_op"
    NOT_INITIALISED = "not_initialised"
    ALREADY_INITIALISED = "already_initialised"
    UNSUPPORTED_SAMPLE_RATE = "unsupported_sample_rate"
    BAD_AUDIO = "bad_audio"
    MESSAGE_TOO_LARGE = "message_too_large"
    CLOSING = "closing"
    INIT_TIMEOUT = "init_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    BUFFER_OVERFLOW = "buffer_overflow"
    SLOW_READER = "slow_reader"
    TEXT_TOO_LONG = "text_too_long"
    ENGINE_FAILED = "engine_failed"
    WARMING_UP = "warming_up"
    SERVER_FULL = "server_full"
    SHUTTING_DOWN = "shutting_down"


class ProtocolError(Exception):
    """A client's mistake: answered with an error message, after which the channel is closed."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Init:
    sid: str
    words: bool = False
    """Are the times of words asked for?"""
    tail: bool = False
    """Shall messages say only what is new, so that none grows with the length of the session?"""


@dataclass(frozen=True)
class Close:
    pass


def parse_text(text: str) -> Init | Close:
    """A client's JSON message. Raises ProtocolError."""
    if len(text) > MAX_TEXT_BYTES:
        raise ProtocolError(
            Reason.MESSAGE_TOO_LARGE, f"a text message has {len(text)} characters; at most {MAX_TEXT_BYTES} are accepted"
        )  # fmt: skip
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(Reason.BAD_MESSAGE, "a text message must be JSON") from exc
    if not isinstance(message, dict):
        raise ProtocolError(Reason.BAD_MESSAGE, f"a text message must be a JSON object, not {type(message).__name__}")
    match message.get("op"):
        case "init":
            return parse_init(message)
        case "close":
            return Close()
        case op:
            raise ProtocolError(Reason.UNKNOWN_OP, f"unknown op {str(op)[:40]!r}; expected 'init' or 'close'")


def parse_init(message: dict) -> Init:
    sample_rate = message.get("sr", SAMPLE_RATE)
    if sample_rate != SAMPLE_RATE or isinstance(sample_rate, bool):
        raise ProtocolError(
            Reason.UNSUPPORTED_SAMPLE_RATE, f"sr must be {SAMPLE_RATE}, not {ascii(sample_rate)[:40]}; resample before sending"
        )  # fmt: skip
    sid = message.get("sid")
    if sid is None:
        sid = str(uuid.uuid4())
    if not isinstance(sid, str) or not 0 < len(sid) <= MAX_SID_CHARACTERS or not sid.isprintable():
        raise ProtocolError(
            Reason.BAD_MESSAGE, f"sid must be a string of 1 to {MAX_SID_CHARACTERS} printable characters, such as a UUID"
        )
    return Init(sid, parse_flag(message, "words"), parse_flag(message, "tail"))


def parse_flag(message: dict, name: str) -> bool:
    flag = message.get(name, False)
    if not isinstance(flag, bool):
        raise ProtocolError(Reason.BAD_MESSAGE, f"{name} must be true or false, not {ascii(flag)[:40]}")
    return flag


def check_audio(pcm: bytes) -> None:
    """A client's binary message: whole PCM16 samples. Raises ProtocolError."""
    if len(pcm) % 2:
        raise ProtocolError(Reason.BAD_AUDIO, f"a binary message has {len(pcm)} bytes; PCM16 needs an even number")
    if len(pcm) > MAX_AUDIO_BYTES:
        raise ProtocolError(
            Reason.MESSAGE_TOO_LARGE, f"a binary message has {len(pcm)} bytes; at most {MAX_AUDIO_BYTES} (5 s) are accepted"
        )  # fmt: skip


def ready(sid: str, max_batch: int) -> dict:
    return {"op": "ready", "sid": sid, "max_batch": max_batch}


def interim(sid: str, seq: int, text: str, stable: int, audio_ms: int, latency_ms: float) -> dict:
    return {"op": "interim", "sid": sid, "seq": seq, "text": text, "stable": stable, "audio_ms": audio_ms,
            "latency_ms": round(latency_ms, 1)}  # fmt: skip


def final(sid: str, text: str, segments: Sequence[Segment], audio_ms: int, latency_ms: float, with_words: bool = False) -> dict:
    message = {"op": "final", "final": True, "sid": sid, "text": text, "stable": len(text),
               "segments": list(map(describe, segments)), "audio_ms": audio_ms, "latency_ms": round(latency_ms, 1)}  # fmt: skip
    if with_words:
        message["words"] = words_of(message["segments"])
    return message


def tail_of(message: dict, offset: int, segments: Sequence[Segment]) -> dict:
    """The message with its text from character `offset` on, and with the segments, and their words, that are new."""
    tail = message | {"text": message["text"][offset:], "offset": offset, "segments": list(map(describe, segments))}
    if "words" in message:
        tail["words"] = words_of(tail["segments"])
    return tail


def words_of(segments: Sequence[dict]) -> list[dict]:
    """Of all segments, as they stand in messages."""
    return [word for segment in segments for word in segment["words"]]


def describe(segment: Segment) -> dict:
    """As it stands in messages; the words only where they were asked for."""
    message = asdict(segment)
    if segment.words is None:
        del message["words"]
    return message


def error(reason: Reason, message: str, **details: object) -> dict:
    return {"op": "error", "reason": reason.value, "message": message} | details


def encode(message: dict) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
