"""The server's own protocol: JSON messages over a data channel. No I/O, no clock.

docs/protocol.schema.json is made from the structs of this file: python scripts/make_docs.py
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from runtime.audio import SAMPLE_RATE
from server.audio.input import MAX_RATE, MIN_RATE
from server.errors import ClientError, Code, ServerError
from server.stream.events import Event, Failed, Final, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.stream import Options
from server.stream.transcript import Segment
from server.stream.word_times import Word

MAX_TEXT_BYTES = 4096  # of a client's JSON message
MAX_AUDIO_BYTES = 5 * SAMPLE_RATE * 2  # of one binary message: 5 s; SCTP as aiortc speaks it ends at 256 KiB
MAX_SID_CHARACTERS = 64
MIN_SILENCE_MS, MAX_SILENCE_MS = 100, 10_000
MAX_FROM_MS = 2**40  # 34 years

Count = Annotated[int, Meta(ge=0)]
SessionId = Annotated[str, Meta(min_length=1, max_length=MAX_SID_CHARACTERS)]


class Init(Struct, frozen=True, tag="init", tag_field="op"):
    """Begin a stream."""

    sid: SessionId
    """The client's name for the stream; it comes back in every message."""
    sr: Annotated[int, Meta(ge=MIN_RATE, le=MAX_RATE)] = SAMPLE_RATE
    """Samples a second of the audio that follows."""
    words: bool = False
    """Whether the final carries the times of words."""
    tail: bool = False
    """Whether messages say only what is new, so that none grows with the length of the session."""
    silence_ms: Annotated[int, Meta(ge=MIN_SILENCE_MS, le=MAX_SILENCE_MS)] | UnsetType = UNSET
    """Silence that ends a turn. If it is given, the server sends speech_started and speech_stopped."""
    flush_turns: bool = False
    """Whether the end of each turn is a flush."""
    pulse: bool = False
    """Whether the server says pulse when it has said nothing for a second."""
    moving: bool = False
    """Whether the server says moving when it is about to end."""
    from_ms: Annotated[int, Meta(ge=0, le=MAX_FROM_MS)] = 0
    """Start of this stream's audio in a session that another connection began; all times count from that session's beginning."""

    @property
    def options(self) -> Options:
        silence = None if self.silence_ms is UNSET else self.silence_ms / 1000
        return Options(words=self.words, silence_seconds=silence, closes_turns=self.flush_turns)


class Flush(Struct, frozen=True, tag="flush", tag_field="op"):
    """Close what was said so far, and go on."""


class Close(Struct, frozen=True, tag="close", tag_field="op"):
    """The audio has ended."""


class SegmentMessage(Struct, frozen=True):
    """A closed stretch of audio and its final text."""

    text: str
    start_ms: Count
    end_ms: Count
    words: tuple[Word, ...] | UnsetType = UNSET


class Message(Struct, frozen=True, tag_field="op"):
    """A message of the server."""

    droppable: ClassVar[bool] = False
    """True if the message may be left out for a client that reads too slowly."""

    @property
    def op(self) -> str:
        return str(self.__struct_config__.tag)

    def forms(self) -> "Iterator[Message]":
        """The message, and what to send in its place where it is longer than the client takes."""
        yield self

    def encode(self) -> str:
        return encoder.encode(self).decode()


encoder = msgspec.json.Encoder()


class Ready(Message, frozen=True, tag="ready"):
    """Audio may be sent now."""

    sid: SessionId
    max_batch: Count
    replica: str
    """Name of the server, among others behind the same address."""


class Pulse(Message, frozen=True, tag="pulse"):
    """The server is there. What was heard up to audio_ms is in closed segments, or silence."""

    droppable: ClassVar[bool] = True  # it says so with the next one, too

    sid: SessionId
    audio_ms: Count


class Moving(Message, frozen=True, tag="moving"):
    """The server ends within so many seconds: go on elsewhere."""

    sid: SessionId
    seconds: Count


class Interim(Message, frozen=True, tag="interim"):
    """The text so far has changed, or more of it is stable."""

    droppable: ClassVar[bool] = True  # the next one says it too

    sid: SessionId
    seq: Count
    text: str
    stable: Count
    audio_ms: Count
    latency_ms: float
    offset: Count | UnsetType = UNSET
    segments: tuple[SegmentMessage, ...] | UnsetType = UNSET


class SpeechStartedMessage(Message, frozen=True, tag="speech_started"):
    """Somebody has begun to speak."""

    sid: SessionId
    at_ms: Count


class SpeechStoppedMessage(Message, frozen=True, tag="speech_stopped"):
    """Nobody has spoken for silence_ms; the last sound ended at at_ms."""

    sid: SessionId
    at_ms: Count


class FlushedMessage(Message, frozen=True, tag="flushed"):
    """All that was said before the flush is text that will never change."""

    sid: SessionId
    text: str
    stable: Count
    audio_ms: Count
    latency_ms: float
    offset: Count | UnsetType = UNSET
    segments: tuple[SegmentMessage, ...] | UnsetType = UNSET

    def forms(self) -> Iterator[Message]:
        yield self
        yield TEXT_TOO_LONG


class FinalMessage(Message, frozen=True, tag="final"):
    """The whole text; then the channel closes."""

    sid: SessionId
    text: str
    stable: Count
    segments: tuple[SegmentMessage, ...]
    audio_ms: Count
    latency_ms: float
    final: Literal[True] = True
    words: tuple[Word, ...] | UnsetType = UNSET
    offset: Count | UnsetType = UNSET

    def forms(self) -> Iterator[Message]:
        yield self
        yield msgspec.structs.replace(self, words=UNSET)  # they are in the segments, too
        yield msgspec.structs.replace(self, words=UNSET, segments=())
        yield TEXT_TOO_LONG


class Error(Message, frozen=True, tag="error"):
    """The error that ends the session; then the channel closes. After init it carries the text that may be kept."""

    reason: Code
    message: str
    sid: SessionId | UnsetType = UNSET
    text: str | UnsetType = UNSET
    audio_ms: Count | UnsetType = UNSET
    offset: Count | UnsetType = UNSET
    segments: tuple[SegmentMessage, ...] | UnsetType = UNSET

    def forms(self) -> Iterator[Message]:
        yield self
        yield TEXT_TOO_LONG


Said = Ready | Pulse | Moving | Interim | SpeechStartedMessage | SpeechStoppedMessage | FlushedMessage | FinalMessage | Error
"""Every message of the server."""

TEXT_TOO_LONG = Error(Code.TEXT_TOO_LONG, "the text is longer than a message to this client may be")


@dataclass
class ClientKnowledge:
    """State that the client knows, from messages that were not dropped."""

    messages: int = 0
    stable: int = 0
    segments: int = 0


class NativeWriter:
    """Writes one stream's events; remembers what the client has been told."""

    def __init__(self, init: Init):
        self._init = init
        self._confirmed = ClientKnowledge()

    @property
    def wants_pulse(self) -> bool:
        return self._init.pulse

    @property
    def wants_moving(self) -> bool:
        return self._init.moving

    def pulse(self, closed_ms: int, segments: Sequence[Segment]) -> Message:
        """closed_ms: where the open segment begins. A closed one that the client was not told of is not behind it yet."""
        unconfirmed = segments[self._confirmed.segments :]
        return Pulse(self._init.sid, self._moved(unconfirmed[0].start_ms if unconfirmed else closed_ms))

    def moving(self, seconds: float) -> Message:
        return Moving(self._init.sid, round(seconds))

    def write(self, event: Event) -> Message:
        match event:
            case Update():
                return self._write_update(event)
            case SpeechStarted(at_ms):
                return SpeechStartedMessage(self._init.sid, self._moved(at_ms))
            case SpeechStopped(at_ms):
                return SpeechStoppedMessage(self._init.sid, self._moved(at_ms))
            case Flushed():
                return self._write_flushed(event)
            case Final():
                return self._write_final(event)
            case Failed():
                return self._write_failure(event)

    def confirm(self, event: Event) -> None:
        """The event's message was sent."""
        if isinstance(event, Update):
            self._confirmed = ClientKnowledge(self._confirmed.messages + 1, event.stable, len(event.segments))
        elif isinstance(event, Flushed):
            self._confirmed = ClientKnowledge(self._confirmed.messages, len(event.text), len(event.segments))

    def _write_update(self, update: Update) -> Interim:
        tail = self._tail(update.segments) if self._init.tail else {}
        return Interim(
            sid=self._init.sid,
            seq=self._confirmed.messages,
            text=self._new(update.text),
            stable=update.stable,
            audio_ms=self._moved(update.audio_ms),
            latency_ms=round(update.latency_ms, 1),
            **tail,
        )

    def _write_flushed(self, flushed: Flushed) -> FlushedMessage:
        return FlushedMessage(
            sid=self._init.sid,
            text=self._new(flushed.text),
            stable=len(flushed.text),
            audio_ms=self._moved(flushed.audio_ms),
            latency_ms=round(flushed.latency_ms, 1),
            **(self._tail(flushed.segments) if self._init.tail else {}),
        )

    def _write_final(self, final: Final) -> FinalMessage:
        tail = self._tail(final.segments) if self._init.tail else {"segments": described(final.segments, self._init.from_ms)}
        return FinalMessage(
            sid=self._init.sid,
            text=self._new(final.text),
            stable=len(final.text),
            audio_ms=self._moved(final.audio_ms),
            latency_ms=round(final.latency_ms, 1),
            words=words_of(tail["segments"]) if self._init.words else UNSET,
            **tail,
        )

    def _write_failure(self, failed: Failed) -> Error:
        tail = self._tail(failed.segments) if self._init.tail else {}
        text = self._new(failed.text)
        return Error(failed.code, failed.message, sid=self._init.sid, text=text, audio_ms=self._moved(failed.audio_ms), **tail)

    def _new(self, text: str) -> str:
        return text[self._confirmed.stable :] if self._init.tail else text

    def _tail(self, segments: Sequence[Segment]) -> dict[str, Any]:
        return {"offset": self._confirmed.stable, "segments": described(segments[self._confirmed.segments :], self._init.from_ms)}

    def _moved(self, ms: int) -> int:
        """Convert to the client's own clock."""
        return self._init.from_ms + ms


@dataclass(frozen=True)
class Server:
    """Facts about the server that `ready` tells."""

    max_batch: int
    replica: str


def ready(init: Init, server: Server) -> Message:
    return Ready(init.sid, server.max_batch, server.replica)


def error(error: ServerError) -> Message:
    """Write the error of a connection that has no stream yet."""
    return Error(error.code, error.message)


def described(segments: Sequence[Segment], from_ms: int) -> tuple[SegmentMessage, ...]:
    return tuple(
        SegmentMessage(each.text, each.start_ms + from_ms, each.end_ms + from_ms, moved(each.words, from_ms)) for each in segments
    )


def moved(words: tuple[Word, ...] | None, from_ms: int) -> tuple[Word, ...] | UnsetType:
    if words is None:
        return UNSET
    return tuple(word.later(from_ms) for word in words) if from_ms else words


def words_of(segments: Sequence[SegmentMessage]) -> tuple[Word, ...]:
    return tuple(word for segment in segments for word in segment.words or ())


def parse_text(text: str) -> Init | Flush | Close:
    """A client's JSON message. Raises ClientError."""
    if len(text) > MAX_TEXT_BYTES:
        raise ClientError(
            Code.MESSAGE_TOO_LARGE, f"a text message has {len(text)} characters; at most {MAX_TEXT_BYTES} are accepted"
        )
    try:
        message = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as exc:
        raise ClientError(Code.BAD_MESSAGE, "a text message must be JSON") from exc
    if not isinstance(message, dict):
        raise ClientError(Code.BAD_MESSAGE, f"a text message must be a JSON object, not {type(message).__name__}")
    match message.get("op"):
        case "init":
            return parse_init(message)
        case "flush":
            return Flush()
        case "close":
            return Close()
        case op:
            raise ClientError(Code.UNKNOWN_OP, f"unknown op {str(op)[:40]!r}; expected 'init', 'flush' or 'close'")


def parse_init(message: dict[str, Any]) -> Init:
    """Fields that are null are absent. Raises ClientError."""
    given = {name: value for name, value in message.items() if value is not None}
    try:
        init = msgspec.convert({"sid": str(uuid.uuid4())} | given, Init)
    except msgspec.ValidationError as exc:
        raise invalid_field(exc) from exc
    if not init.sid.isprintable():
        raise ClientError(Code.BAD_MESSAGE, "sid must have printable characters only, as a UUID has")
    if init.flush_turns and init.silence_ms is UNSET:
        raise ClientError(Code.BAD_MESSAGE, "flush_turns needs silence_ms: how long a silence ends a turn")
    return init


def invalid_field(invalid: msgspec.ValidationError) -> ClientError:
    """msgspec says what it expected, and at which field: "Expected `int` >= 8000 - at `$.sr`"."""
    expected, _, place = str(invalid).replace("`", "").partition(" - at $.")
    code = Code.UNSUPPORTED_SAMPLE_RATE if place == "sr" else Code.BAD_MESSAGE
    return ClientError(code, f"{place or 'init'}: {expected[:1].lower()}{expected[1:]}")


def check_audio(pcm: bytes) -> None:
    """A client's binary message: whole PCM16 samples. Raises ClientError."""
    if len(pcm) % 2:
        raise ClientError(Code.BAD_AUDIO, f"a binary message has {len(pcm)} bytes; PCM16 needs an even number")
    if len(pcm) > MAX_AUDIO_BYTES:
        raise ClientError(
            Code.MESSAGE_TOO_LARGE, f"a binary message has {len(pcm)} bytes; at most {MAX_AUDIO_BYTES} (5 s) are accepted"
        )


def json_schema() -> dict[str, Any]:
    """JSON schema of the messages of both sides."""
    (client, server), components = msgspec.json.schema_components((Init | Flush | Close, Said), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "moonshine-asr: JSON messages of the data channel",
        "$defs": components | {"ClientMessage": client, "ServerMessage": server},
    }
