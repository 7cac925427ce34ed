"""The server's own protocol: JSON messages over a data channel. No I/O, no clock.

docs/protocol.schema.json is made from the structs of this file: python scripts/make_docs.py
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from runtime.audio import SAMPLE_RATE
from server.apis import terms, text_options
from server.audio.input import MAX_CHANNELS, MAX_RATE, MIN_RATE
from server.errors import ClientError, Code, ServerError
from server.stream.formatting.options import TextOptions
from server.stream.stream import Options
from server.stream.terms import DEFAULT_BOOST, Term
from server.stream.word_times import Word

MAX_TEXT_BYTES = 32_768  # of a client's JSON message: keyterms take most of it
MAX_AUDIO_BYTES = 5 * SAMPLE_RATE * 2  # of one binary message: 5 s at 16 kHz, mono; the limit of SCTP in aiortc is 256 KiB
MAX_SID_CHARACTERS = 64
MIN_SILENCE_MS, MAX_SILENCE_MS = 100, 10_000
MIN_THRESHOLD, MAX_THRESHOLD = 0.3, 0.99
MAX_FROM_MS = 2**40  # 34 years

ClientMessage = TypeVar("ClientMessage", bound=Struct)
Count = Annotated[int, Meta(ge=0)]
SessionId = Annotated[str, Meta(min_length=1, max_length=MAX_SID_CHARACTERS)]


class Keyterm(Struct, frozen=True):
    """A term with a boost of its own."""

    term: str
    boost: Annotated[float, Meta(gt=0, le=terms.MOST_BOOST)] = DEFAULT_BOOST
    """Gain of the model's score for it: a higher boost finds it more often, also where other words were spoken."""


class Init(Struct, frozen=True, tag="init", tag_field="op"):
    """Begin a stream."""

    sid: SessionId
    """The client's name for the stream; it comes back in every message."""
    sr: Annotated[int, Meta(ge=MIN_RATE, le=MAX_RATE)] = SAMPLE_RATE
    """Samples a second of the audio that follows."""
    words: bool = False
    """Whether the final carries the times of words."""
    tail: bool = False
    """Whether messages have only new text, so that no message grows with the length of the session."""
    silence_ms: Annotated[int, Meta(ge=MIN_SILENCE_MS, le=MAX_SILENCE_MS)] | UnsetType = UNSET
    """Silence that ends a turn. If it is given, the server sends speech_started and speech_stopped."""
    flush_turns: bool = False
    """Whether the end of each turn is a flush."""
    turn_threshold: Annotated[float, Meta(ge=MIN_THRESHOLD, le=MAX_THRESHOLD)] | UnsetType = UNSET
    """Probability that ends a turn; silence_ms is then the longest silence within one."""
    turns: bool = False
    """Whether the server sends `turn` in each pause, with the probability that the turn is over."""
    pulse: bool = False
    """Whether the server sends `pulse` when it has sent nothing for a second."""
    moving: bool = False
    """Whether the server sends `moving` when it is about to end."""
    from_ms: Annotated[int, Meta(ge=0, le=MAX_FROM_MS)] = 0
    """Start of this stream's audio in a session that another connection began; all times count from that session's beginning."""
    keyterms: tuple[str | Keyterm, ...] = ()
    """Words and phrases to expect: names, products, technical terms."""
    channels: Annotated[int, Meta(ge=1, le=MAX_CHANNELS)] = 1
    """Channels of the audio that follows, interleaved. Each is transcribed by itself, and takes a place."""
    numerals: bool = False
    """Whether numbers are written in digits."""
    redact: tuple[Literal["pci", "ssn", "numbers", "aggressive_numbers", "email"], ...] = ()
    """Secrets that are replaced by their names: cards, social security numbers, numbers of 3 digits, all numbers, addresses."""
    profanity_filter: bool = False
    """Whether profane words are replaced by asterisks."""
    filler_words: bool = True
    """Whether "uh" and "um" are written."""
    replace: dict[str, str] = {}
    """Words and phrases, and their replacements."""

    @property
    def weighs_pauses(self) -> bool:
        """True if the probability of the end of a turn is requested."""
        return self.turns or self.turn_threshold is not UNSET

    @property
    def options(self) -> Options:
        """Options of the stream. Raises ClientError for invalid keyterms and replacements."""
        silence = None if self.silence_ms is UNSET else self.silence_ms / 1000
        return Options(
            words=self.words,
            silence_seconds=silence,
            closes_turns=self.flush_turns,
            end_threshold=None if self.turn_threshold is UNSET else self.turn_threshold,
            reports_pauses=self.turns,
            terms=checked_terms(self.keyterms),
            text=self._text_options,
        )

    @property
    def _text_options(self) -> TextOptions:
        return TextOptions(
            numerals=self.numerals,
            redacted=text_options.secrets(self.redact),
            masks_profanity=self.profanity_filter,
            drops_fillers=not self.filler_words,
            replacements=text_options.replacements(self.replace.items()),
            is_cut_before=self.from_ms > 0,
        )


class SetKeyterms(Struct, frozen=True, tag="keyterms", tag_field="op"):
    """Replace the keyterms from now on."""

    keyterms: tuple[str | Keyterm, ...] = ()


class Flush(Struct, frozen=True, tag="flush", tag_field="op"):
    """Close the text so far, and go on."""


class Close(Struct, frozen=True, tag="close", tag_field="op"):
    """The audio has ended."""


class SegmentMessage(Struct, frozen=True):
    """A closed range of audio and its final text."""

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
        """Yield the message, then shorter messages to send instead if it is longer than the client takes."""
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
    frame_ms: Count
    """Milliseconds of audio that a message should carry: more if many sessions are open."""


class Pulse(Message, frozen=True, tag="pulse"):
    """The server is alive. All audio up to audio_ms is in closed segments, or is silence."""

    droppable: ClassVar[bool] = True  # the next one has the same information

    sid: SessionId
    audio_ms: Count


class Moving(Message, frozen=True, tag="moving"):
    """The server ends within this many seconds: go on elsewhere."""

    sid: SessionId
    seconds: Count


class Interim(Message, frozen=True, tag="interim"):
    """The text so far has changed, or more of it is stable."""

    droppable: ClassVar[bool] = True  # the next one has the same information

    sid: SessionId
    seq: Count
    text: str
    stable: Count
    audio_ms: Count
    latency_ms: float
    offset: Count | UnsetType = UNSET
    segments: tuple[SegmentMessage, ...] | UnsetType = UNSET
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""


class SpeechStartedMessage(Message, frozen=True, tag="speech_started"):
    """Somebody has begun to speak."""

    sid: SessionId
    at_ms: Count
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""


class SpeechStoppedMessage(Message, frozen=True, tag="speech_stopped"):
    """The turn is over; its last sound ended at at_ms."""

    sid: SessionId
    at_ms: Count
    probability: float | UnsetType = UNSET
    """Probability that the turn is over, if init has turn_threshold or turns."""
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""


class TurnMessage(Message, frozen=True, tag="turn"):
    """Nobody speaks; the last sound ended at at_ms. Each pause has several, until somebody goes on or the turn is over."""

    droppable: ClassVar[bool] = True  # the next one has more information

    sid: SessionId
    at_ms: Count
    silence_ms: Count
    probability: float
    """Probability that the turn is over."""
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""


class FlushedMessage(Message, frozen=True, tag="flushed"):
    """All audio before the flush has text that will never change."""

    sid: SessionId
    text: str
    stable: Count
    audio_ms: Count
    latency_ms: float
    offset: Count | UnsetType = UNSET
    segments: tuple[SegmentMessage, ...] | UnsetType = UNSET
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""

    def forms(self) -> Iterator[Message]:
        yield self
        yield TEXT_TOO_LONG


class FinalMessage(Message, frozen=True, tag="final"):
    """The whole text. After the final of the last channel the connection closes."""

    sid: SessionId
    text: str
    stable: Count
    segments: tuple[SegmentMessage, ...]
    audio_ms: Count
    latency_ms: float
    final: Literal[True] = True
    words: tuple[Word, ...] | UnsetType = UNSET
    offset: Count | UnsetType = UNSET
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""

    def forms(self) -> Iterator[Message]:
        yield self
        yield msgspec.structs.replace(self, words=UNSET)  # they are also in the segments
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
    channel: Count | UnsetType = UNSET
    """The channel, counted from 0, if init asks for more than one."""

    def forms(self) -> Iterator[Message]:
        yield self
        yield TEXT_TOO_LONG


Said = (
    Ready
    | Pulse
    | Moving
    | Interim
    | SpeechStartedMessage
    | SpeechStoppedMessage
    | TurnMessage
    | FlushedMessage
    | FinalMessage
    | Error
)
"""Every message of the server."""

TEXT_TOO_LONG = Error(Code.TEXT_TOO_LONG, "the text is longer than a message to this client may be")


@dataclass(frozen=True)
class Server:
    """Facts about the server that a session needs."""

    max_batch: int
    replica: str
    model_id: str = ""


def ready(init: Init, server: Server, frame_ms: int) -> Message:
    return Ready(init.sid, server.max_batch, server.replica, frame_ms)


def error(error: ServerError) -> Message:
    """Write the error of a connection that has no stream yet."""
    return Error(error.code, error.message)


def pulse(init: Init, told_ms: int) -> Message:
    return Pulse(init.sid, told_ms)


def moving(init: Init, seconds: float) -> Message:
    return Moving(init.sid, round(seconds))


def checked_terms(keyterms: Sequence[str | Keyterm]) -> tuple[Term, ...]:
    """Raises ClientError."""
    found = (Term(each) if isinstance(each, str) else Term(each.term, each.boost) for each in keyterms)
    return terms.checked(found, "keyterms")


def parse_text(text: str) -> Init | SetKeyterms | Flush | Close:
    """Parse a client's JSON message. Raises ClientError."""
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
        case "keyterms":
            return converted(message, SetKeyterms)
        case "flush":
            return Flush()
        case "close":
            return Close()
        case op:
            raise ClientError(Code.UNKNOWN_OP, f"unknown op {str(op)[:40]!r}; expected 'init', 'keyterms', 'flush' or 'close'")


def parse_init(message: dict[str, Any]) -> Init:
    """Raises ClientError."""
    init = converted(message, Init, sid=str(uuid.uuid4()))
    if not init.sid.isprintable():
        raise ClientError(Code.BAD_MESSAGE, "sid must have printable characters only, as a UUID has")
    for name, is_asked in (
        ("flush_turns", init.flush_turns),
        ("turn_threshold", init.turn_threshold is not UNSET),
        ("turns", init.turns),
    ):
        if is_asked and init.silence_ms is UNSET:
            raise ClientError(Code.BAD_MESSAGE, f"{name} needs silence_ms: how long a silence ends a turn")
    return init


def converted(message: dict[str, Any], kind: type[ClientMessage], **defaults: object) -> ClientMessage:
    """Convert a message to its struct. Fields that are null count as absent. Raises ClientError."""
    given = {name: value for name, value in message.items() if value is not None}
    try:
        return msgspec.convert(defaults | given, kind)
    except msgspec.ValidationError as exc:
        raise invalid_field(exc) from exc


def invalid_field(invalid: msgspec.ValidationError) -> ClientError:
    """Convert an error of msgspec, which names the expected value and the field: "Expected `int` >= 8000 - at `$.sr`"."""
    expected, _, place = str(invalid).replace("`", "").partition(" - at $.")
    place = place.replace("[...]", "")
    code = Code.UNSUPPORTED_SAMPLE_RATE if place == "sr" else Code.BAD_MESSAGE
    return ClientError(code, f"{place or 'init'}: {expected[:1].lower()}{expected[1:]}")


def check_audio(pcm: bytes) -> None:
    """Check a client's binary message: whole PCM16 samples. Raises ClientError."""
    if len(pcm) % 2:
        raise ClientError(Code.BAD_AUDIO, f"a binary message has {len(pcm)} bytes; PCM16 needs an even number")
    if len(pcm) > MAX_AUDIO_BYTES:
        raise ClientError(
            Code.MESSAGE_TOO_LARGE, f"a binary message has {len(pcm)} bytes; at most {MAX_AUDIO_BYTES} are accepted"
        )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the messages of both sides."""
    (client, server), components = msgspec.json.schema_components(
        (Init | SetKeyterms | Flush | Close, Said), ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "moonshine-asr: JSON messages of the data channel",
        "$defs": components | {"ClientMessage": client, "ServerMessage": server},
    }
