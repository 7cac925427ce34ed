"""OpenAI's Realtime API, transcription sessions: a session's settings, and a stream's events as the server events of items.

A harmless mistake of a client is not an error: the frameworks that use this dialect end their session at any error.
"""

import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from runtime.languages import language_of
from server.apis import languages
from server.apis.json_object import are_texts
from server.apis.json_text import encoded
from server.apis.openai.transcription import SERVER_ERROR, check_model, token_log_probs
from server.apis.terms import with_prompt
from server.audio.input import MAX_RATE, MIN_RATE, AudioFormat, SampleEncoding
from server.errors import ClientError, Code, ServerError
from server.stream.events import Event, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.stream import Options
from server.stream.terms import Term

DEFAULT_RATE = 24_000  # OpenAI's
ENCODINGS = {"audio/pcm": SampleEncoding.PCM16, "audio/pcmu": SampleEncoding.MULAW, "audio/pcma": SampleEncoding.ALAW}
TELEPHONE_RATE = 8_000
SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
MOST_PREFIX_MS = 10_000
MOST_CONFIGURATION_CHARACTERS = 64 * 1024
EAGERNESS = {"low": (0.9, 8000), "medium": (0.7, 4000), "auto": (0.7, 4000), "high": (0.5, 2000)}
"""Probability that ends a turn with semantic_vad, and the longest silence within one, in milliseconds."""
LEAST_SILENCE_MS, MOST_SILENCE_MS = 200, 10_000  # a shorter one would end a turn within a word
TRANSCRIPTION = "conversation.item.input_audio_transcription"
LOG_PROBS = "item.input_audio_transcription.logprobs"
"""Name by which a client requests the probabilities of tokens."""
EXPIRES_SECONDS = 0  # never; it is sent because the protocol has a field for it


@dataclass(frozen=True)
class ServerEvent:
    """An event to the client."""

    droppable: ClassVar[bool] = False
    fields: Mapping[str, Any]

    @property
    def op(self) -> str:
        return str(self.fields["type"])

    def forms(self) -> "Iterator[ServerEvent]":
        yield self

    def encode(self) -> str:
        return encoded({"event_id": new_id("event"), **self.fields})


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:20]}"


class Configuration:
    """Configuration of a session: the defaults, and the changes by session.update."""

    def __init__(self, model_id: str):
        self.model_id = model_id
        self._id = new_id("sess")
        self._include: list[str] | None = None
        self._input: dict[str, Any] = {
            "format": {"type": "audio/pcm", "rate": DEFAULT_RATE},
            "transcription": {"model": model_id.rpartition("/")[2], "language": language_of(model_id).code, "prompt": ""},
            "noise_reduction": None,
            "turn_detection": dict(SERVER_VAD),
        }
        self.audio_format = AudioFormat(rate=DEFAULT_RATE)
        self._terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, session: object | None, model_id: str) -> "Configuration":
        """Return the defaults with the changes of a client's session object. Raises ClientError."""
        configuration = cls(model_id)
        if session is not None:
            configuration.update(session)
        return configuration

    def update(self, session: object) -> bool:
        """Change the fields that are present; null clears a field. Returns True if anything changed.

        Raises ClientError, and then changes nothing.
        """
        if len(encoded(session)) > MOST_CONFIGURATION_CHARACTERS:  # all of it is sent back at every change
            raise ClientError(
                Code.INVALID_VALUE, f"a session has {MOST_CONFIGURATION_CHARACTERS:,} characters at most", "session"
            )
        asked = mapping(session, "session")
        if asked.get("type", "transcription") != "transcription":
            raise ClientError(Code.INVALID_VALUE, "only transcription sessions are served here", "session.type")
        audio = mapping(asked.get("audio") or {}, "session.audio")
        wanted = mapping(audio.get("input") or {}, "session.audio.input")
        changed = self._input | {name: value for name, value in wanted.items() if name in self._input}
        include = parse_include(asked.get("include", self._include))
        if changed == self._input and include == self._include:
            return False
        audio_format = parse_format(changed["format"])
        silence_ms(changed["turn_detection"])
        prefix_ms(changed["turn_detection"])
        self._check_transcription(changed["transcription"])
        is_same = changed["transcription"] == self._input["transcription"]
        terms = self._terms if is_same else parse_terms(changed["transcription"])  # a long prompt takes milliseconds
        self._input, self.audio_format, self._terms, self._include = changed, audio_format, terms, include
        return True

    def _check_transcription(self, transcription: object) -> None:
        asked = mapping(transcription or {}, "session.audio.input.transcription")
        check_model(str(asked.get("model") or "default"), self.model_id)
        named = asked.get("languages") or [asked.get("language") or ""]
        if not are_texts(named):
            name = "session.audio.input.transcription.languages"
            raise ClientError(Code.INVALID_VALUE, "languages are texts, or a list of them", name)
        languages.check(named, self.model_id)

    @property
    def options(self) -> Options:
        silence = silence_ms(self._input["turn_detection"])
        seconds = None if silence is None else silence / 1000
        tokens = LOG_PROBS in (self._include or ())
        threshold = end_threshold(self._input["turn_detection"])
        return Options(
            silence_seconds=seconds,
            closes_turns=silence is not None,
            end_threshold=threshold,
            terms=self._terms,
            tokens=tokens,
        )

    @property
    def prefix_ms(self) -> int:
        """Milliseconds by which a turn begins before its first sound."""
        return prefix_ms(self._input["turn_detection"])

    def as_json(self) -> dict[str, Any]:
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": self._id,
            "expires_at": EXPIRES_SECONDS,
            "include": self._include,
            "audio": {"input": self._input},
        }


def mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ClientError(Code.INVALID_VALUE, f"{name} must be an object", name)
    return value


def parse_terms(transcription: object) -> tuple[Term, ...]:
    """Return the keywords, and the names in the prompt. Raises ClientError."""
    name = "session.audio.input.transcription"
    asked = mapping(transcription or {}, name)
    keywords, prompt = asked.get("keywords") or [], asked.get("prompt") or ""
    if not isinstance(prompt, str):
        raise ClientError(Code.INVALID_VALUE, "the prompt is a text", f"{name}.prompt")
    if not are_texts(keywords):
        raise ClientError(Code.INVALID_VALUE, "keywords are a list of texts", f"{name}.keywords")
    return with_prompt(map(Term, keywords), prompt, f"{name}.keywords")


def parse_include(value: object) -> list[str] | None:
    """Raises ClientError."""
    if value is None or are_texts(value):
        return value
    raise ClientError(Code.INVALID_VALUE, "include is a list of texts", "session.include")


def parse_format(value: object) -> AudioFormat:
    name = "session.audio.input.format"
    asked = mapping(value, name)
    encoding = ENCODINGS.get(str(asked.get("type")))
    if encoding is None:
        raise ClientError(Code.UNSUPPORTED_VALUE, f"the type must be one of {', '.join(ENCODINGS)}", name)
    rate = asked.get("rate") or DEFAULT_RATE if encoding is SampleEncoding.PCM16 else TELEPHONE_RATE
    if not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE:
        raise ClientError(Code.UNSUPPORTED_VALUE, f"the rate must be from {MIN_RATE} to {MAX_RATE}", name)
    return AudioFormat(encoding, rate)


def silence_ms(detection: object) -> int | None:
    """Return the silence that ends a turn, from a turn_detection; None if the client commits turns itself."""
    if detection is None:
        return None
    name = "session.audio.input.turn_detection"
    asked = mapping(detection, name)
    match asked.get("type"):
        case "server_vad":
            silence = asked.get("silence_duration_ms") or SERVER_VAD["silence_duration_ms"]
        case "semantic_vad":
            _, silence = EAGERNESS.get(str(asked.get("eagerness") or "auto"), (None, None))
        case _:
            silence = None
    if not isinstance(silence, int | float):
        raise ClientError(Code.INVALID_VALUE, "turn_detection must be server_vad, semantic_vad or null", name)
    return int(min(MOST_SILENCE_MS, max(LEAST_SILENCE_MS, silence)))


def end_threshold(detection: object) -> float | None:
    """Return the probability that ends a turn, from a turn_detection that silence_ms() accepts; None: only silence ends it."""
    asked = mapping(detection or {}, "session.audio.input.turn_detection")
    if asked.get("type") != "semantic_vad":
        return None
    return EAGERNESS[str(asked.get("eagerness") or "auto")][0]


def prefix_ms(detection: object) -> int:
    """Return the milliseconds of padding, from a turn_detection. Raises ClientError."""
    name = "session.audio.input.turn_detection"
    padding = mapping(detection or {}, name).get("prefix_padding_ms") or 0
    if not isinstance(padding, int | float) or not 0 <= padding <= MOST_PREFIX_MS:
        raise ClientError(Code.INVALID_VALUE, f"prefix_padding_ms must be a number from 0 to {MOST_PREFIX_MS:,}", name)
    return int(padding)


@dataclass
class Item:
    """One turn, from its first sound to its completed text."""

    item_id: str
    said: str = ""
    """The deltas so far."""


class Items:
    """Writes the events of a stream as events of items, one item after another."""

    def __init__(self, language: str, start_ms: int = 0, previous: str | None = None) -> None:
        """language: language of the model, as ISO 639-1. start_ms: start of the stream in the session's audio.

        previous: the id of the item before.
        """
        self.received_ms = start_ms
        """Milliseconds of the session's audio that have come."""
        self._language, self._start_ms, self._previous = language, start_ms, previous
        self._begun = 0  # characters of the stream's text that belong to earlier items
        self._begun_segments = 0  # segments that belong to earlier items
        self._item: Item | None = None  # the item that is receiving audio
        self._committed: deque[Item] = deque()  # items that wait for their text
        self._committed_ms = 0  # end of the stream's audio that belongs to earlier items

    def after_clear(self) -> "Items":
        """Return the items of the next stream. The item that was receiving audio is dropped."""
        self._item = None
        return Items(self._language, self.received_ms, self._previous)

    @property
    def is_open(self) -> bool:
        """True if an item is receiving audio."""
        return self._item is not None

    @property
    def awaited(self) -> int:
        """Number of committed items that have no text yet."""
        return len(self._committed)

    def write(self, event: Event, prefix_ms: int) -> Iterator[ServerEvent]:
        """Write an event of the stream, except for its end."""
        match event:
            case SpeechStarted(at_ms):
                item = self.open()
                start_ms = max(0, self._start_ms + at_ms - prefix_ms)
                yield event_of("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=item.item_id)
            case Update():
                yield from self._delta(event.text[: event.stable])
            case SpeechStopped(at_ms):
                item = self.open()
                yield event_of("input_audio_buffer.speech_stopped", audio_end_ms=self._start_ms + at_ms, item_id=item.item_id)
                yield from self.commit()
            case Flushed():
                yield from self._complete(event)

    def open(self) -> Item:
        """Return the item that is receiving audio, or a new one."""
        self._item = self._item or Item(new_id("item"))
        return self._item

    def commit(self) -> Iterator[ServerEvent]:
        """Commit the open item: its audio is complete, and its text follows."""
        item, self._item = self.open(), None
        self._committed.append(item)
        yield event_of("input_audio_buffer.committed", item_id=item.item_id, previous_item_id=self._previous)
        content = [{"type": "input_audio", "transcript": None}]
        described = {
            "id": item.item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": content,
        }
        for kind in ("added", "done"):
            yield event_of(f"conversation.item.{kind}", previous_item_id=self._previous, item=described)
        self._previous = item.item_id

    def _delta(self, text: str) -> Iterator[ServerEvent]:
        """Write the new part of the stable text. text: all stable text. It waits until there is an item for it."""
        new, item = text[self._begun :].lstrip(), self._committed[0] if self._committed else self._item
        if item and len(new) > len(item.said):
            delta, item.said = new[len(item.said) :], new
            yield event_of(f"{TRANSCRIPTION}.delta", item_id=item.item_id, content_index=0, delta=delta)

    def _complete(self, flushed: Flushed) -> Iterator[ServerEvent]:
        yield from self._delta(flushed.text)
        seconds = (flushed.audio_ms - self._committed_ms) / 1000
        new_segments = flushed.segments[self._begun_segments :]
        self._begun, self._begun_segments, self._committed_ms = len(flushed.text), len(flushed.segments), flushed.audio_ms
        if not self._committed:
            return
        item = self._committed.popleft()
        usage = {"type": "duration", "seconds": seconds}
        log_probs = token_log_probs(new_segments)
        yield event_of(
            f"{TRANSCRIPTION}.completed",
            item_id=item.item_id,
            content_index=0,
            transcript=item.said,
            usage=usage,
            languages=[{"code": self._language}],
            **({"logprobs": log_probs} if log_probs else {}),
        )


def event_of(kind: str, **fields: Any) -> ServerEvent:
    return ServerEvent({"type": kind} | fields)


def error_event(error: ServerError, client_event_id: object = None) -> ServerEvent:
    kind = SERVER_ERROR if error.code.http_status >= 500 else "invalid_request_error"
    said = {
        "type": kind,
        "code": error.code.value,
        "message": error.message,
        "param": getattr(error, "parameter", None),
        "event_id": client_event_id,
    }
    return ServerEvent({"type": "error", "error": said})
