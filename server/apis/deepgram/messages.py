"""Deepgram's /v1/listen: the query of a stream or a recording, and events as its messages."""

import math
import re
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from server.apis import languages
from server.apis.json_object import parse_object
from server.apis.json_text import encoded
from server.audio.input import AudioFormat, SampleEncoding
from server.errors import ClientError, Code, ServerError
from server.stream.events import Event, Final, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.stream import Options
from server.stream.transcript import Segment
from server.stream.word_times import Word

ENCODINGS = {"linear16": SampleEncoding.PCM16, "mulaw": SampleEncoding.MULAW, "alaw": SampleEncoding.ALAW}
LEAST_UTTERANCE_END_MS = 1000  # Deepgram's
DEFAULT_ENDPOINTING_MS, LEAST_ENDPOINTING_MS, MOST_ENDPOINTING_MS = 10, 200, 10_000  # a shorter one ends turns within words
VAD_SILENCE_SECONDS = 1.0  # where speech is told and no turn is ended


@dataclass(frozen=True)
class ListenParameters:
    """Parameters of a live stream."""

    audio_format: AudioFormat | None
    """None: a container, which says it itself."""
    interims: bool
    sends_speech: bool
    endpointing_ms: int | None
    utterance_end_ms: int | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def options(self) -> Options:
        if self.endpointing_ms is not None:
            return Options(words=True, silence_seconds=self.endpointing_ms / 1000, closes_turns=True)
        sends_turns = self.sends_speech or self.utterance_end_ms is not None
        return Options(words=True, silence_seconds=VAD_SILENCE_SECONDS if sends_turns else None)


def parse(query: Mapping[str, str], model_id: str) -> ListenParameters:
    """Parse the query of a live stream; unknown parameters are ignored. Raises ClientError."""
    check(query, model_id)
    audio_format = parse_format(query) if query.get("encoding") else None
    interims, sends_speech = is_true(query, "interim_results"), is_true(query, "vad_events")
    return ListenParameters(audio_format, interims, sends_speech, parse_endpointing(query), parse_utterance_end(query))


def parse_format(query: Mapping[str, str]) -> AudioFormat:
    """Raises ClientError."""
    encoding = ENCODINGS.get(query["encoding"])
    if encoding is None:
        known = ", ".join(ENCODINGS)
        raise ClientError(Code.UNSUPPORTED_VALUE, f"encoding must be one of {known}; a container has none", "encoding")
    try:
        return AudioFormat(encoding, number(query, "sample_rate", 8000), number(query, "channels", 1))
    except ValueError as exc:
        raise ClientError(Code.INVALID_VALUE, str(exc), "sample_rate") from exc


def check(query: Mapping[str, str], model_id: str) -> None:
    """Check the query of a stream or a recording. Raises ClientError."""
    languages.check([query.get("language", "")], model_id)
    for name in ("callback", "multichannel"):
        if query.get(name, "false").lower() not in ("false", ""):
            raise ClientError(Code.UNSUPPORTED_PARAMETER, f"{name} is not supported here", name)


def is_true(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "false").lower() == "true"


def number(query: Mapping[str, str], name: str, default: int) -> int:
    value = query.get(name, str(default))
    if not value.isdecimal() or len(value) > 9:
        raise ClientError(Code.INVALID_VALUE, f"{name} must be a whole number", name)
    return int(value)


def parse_endpointing(query: Mapping[str, str]) -> int | None:
    asked = query.get("endpointing", "true").lower()
    if asked == "false":
        return None
    milliseconds = DEFAULT_ENDPOINTING_MS if asked == "true" else number(query, "endpointing", DEFAULT_ENDPOINTING_MS)
    return min(MOST_ENDPOINTING_MS, max(LEAST_ENDPOINTING_MS, milliseconds))


def parse_utterance_end(query: Mapping[str, str]) -> int | None:
    if not query.get("utterance_end_ms"):
        return None
    return max(LEAST_UTTERANCE_END_MS, number(query, "utterance_end_ms", LEAST_UTTERANCE_END_MS))


@dataclass(frozen=True)
class DeepgramMessage:
    """A message to the client."""

    fields: Mapping[str, Any]
    droppable: bool = False
    latency_ms: float | None = None

    @property
    def op(self) -> str:
        return str(self.fields["type"])

    def forms(self) -> "Iterator[DeepgramMessage]":
        yield self

    def encode(self) -> str:
        return encoded(self.fields)


@dataclass
class ResultsWriter:
    """Writes one stream's events; remembers what is final."""

    SPEECH: ClassVar[str] = "speech_final"
    FINALIZE: ClassVar[str] = "from_finalize"

    parameters: ListenParameters
    model_id: str
    _final_segments: int = 0
    _final_characters: int = 0
    _final_ms: int = 0
    _flushes: deque[str] = field(default_factory=deque)
    """Reasons of the flushes under way, the oldest first."""
    _silent_since_ms: int | None = None
    _last_word_end_ms: int | None = None

    def finalize(self) -> None:
        """The client has asked for a flush."""
        self._flushes.append(self.FINALIZE)

    def receive(self, audio_ms: int) -> Iterator[DeepgramMessage]:
        """Write UtteranceEnd if an utterance has ended by now. audio_ms: milliseconds of audio received so far."""
        since, after = self._silent_since_ms, self.parameters.utterance_end_ms
        if since is None or after is None or audio_ms - since < after or self._flushes:
            return
        self._silent_since_ms = None
        last = -1 if self._last_word_end_ms is None else self._last_word_end_ms / 1000
        yield DeepgramMessage({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": last})

    def write(self, event: Event) -> Iterator[DeepgramMessage]:
        match event:
            case SpeechStarted(at_ms):
                self._silent_since_ms = None
                if self.parameters.sends_speech:
                    yield DeepgramMessage({"type": "SpeechStarted", "channel": [0, 1], "timestamp": at_ms / 1000})
            case SpeechStopped(at_ms):
                self._silent_since_ms = at_ms
                if self.parameters.endpointing_ms is not None:
                    self._flushes.append(self.SPEECH)
            case Update():
                yield from self._closed(event.segments)
                if self.parameters.interims:
                    yield self._interim(event)
            case Flushed():
                yield from self._closed(event.segments, self._flushes.popleft(), event.audio_ms)
            case Final():
                reasons: list[str | None] = [*self._flushes]  # the end of the stream answers each flush that is under way
                for why in reasons or [None]:
                    yield from self._closed(event.segments, why, event.audio_ms)
                yield self._metadata(event.audio_ms)

    def _closed(self, segments: Sequence[Segment], why: str | None = None, until_ms: int = 0) -> Iterator[DeepgramMessage]:
        """Write the segments that have closed since the last call; the last of them gives the reason, if there is one."""
        new = segments[self._final_segments :]
        self._final_segments = len(segments)
        for number, segment in enumerate(new, start=1):
            self._final_characters += len(segment.text) + (self._final_characters > 0)
            self._last_word_end_ms = segment.words[-1].end_ms if segment.words else self._last_word_end_ms
            yield self._results(
                segment.text, segment.end_ms, segment.words or (), segment.log_prob, why if number == len(new) else None
            )
        if why and not new:
            yield self._results("", max(until_ms, self._final_ms), (), 0.0, why)

    def _results(self, text: str, end_ms: int, words: Sequence[Word], log_prob: float, why: str | None) -> DeepgramMessage:
        message = self._message(text, end_ms, words, log_prob) | {"is_final": True} | ({why: True} if why else {})
        self._final_ms = end_ms
        return DeepgramMessage(message)

    def _interim(self, update: Update) -> DeepgramMessage:
        text = update.text[self._final_characters :].lstrip()
        return DeepgramMessage(
            self._message(text, max(update.audio_ms, self._final_ms), (), 0.0), droppable=True, latency_ms=update.latency_ms
        )

    def _message(self, text: str, end_ms: int, words: Sequence[Word], log_prob: float) -> dict[str, Any]:
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "start": self._final_ms / 1000,
            "duration": (end_ms - self._final_ms) / 1000,
            "is_final": False,
            "speech_final": False,
            "from_finalize": False,
            "channel": {"alternatives": [alternative(text, words, log_prob)]},
            "metadata": {
                "request_id": self.parameters.request_id,
                "model_uuid": self.parameters.request_id,
                "model_info": model_info(self.model_id),
            },
        }

    def _metadata(self, audio_ms: int) -> DeepgramMessage:
        return DeepgramMessage({"type": "Metadata"} | metadata(self.parameters.request_id, self.model_id, audio_ms / 1000, ""))


def alternative(text: str, words: Sequence[Word], log_prob: float) -> dict[str, Any]:
    confidence = round(math.exp(min(0.0, log_prob)), 4) if text else 0.0
    return {"transcript": text, "confidence": confidence, "words": [described(word) for word in words]}


def described(word: Word) -> dict[str, Any]:
    plain = re.sub(r"[^\w'-]", "", word.w.lower())
    return {
        "word": plain,
        "start": word.start_ms / 1000,
        "end": word.end_ms / 1000,
        "confidence": word.confidence,
        "punctuated_word": word.w,
    }


def model_info(model_id: str) -> dict[str, str]:
    return {"name": model_id, "version": "", "arch": "moonshine"}


def metadata(request_id: str, model_id: str, seconds: float, sha256: str) -> dict[str, Any]:
    return {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": datetime.now(UTC).isoformat(),
        "duration": seconds,
        "channels": 1,
        "models": [request_id],
        "model_info": {request_id: model_info(model_id)},
    }


def whole(text: str, segments: Sequence[Segment], seconds: float, model_id: str, sha256: str, utterances: bool) -> dict[str, Any]:
    """The answer of a recording."""
    words = [word for segment in segments for word in segment.words or ()]
    log_prob = sum(segment.log_prob for segment in segments) / max(1, len(segments))
    results: dict[str, Any] = {"channels": [{"alternatives": [alternative(text, words, log_prob)]}]}
    if utterances:
        results["utterances"] = [
            {"start": each.start_ms / 1000, "end": each.end_ms / 1000, "channel": 0, "id": str(uuid.uuid4())}
            | alternative(each.text, each.words or (), each.log_prob)
            for each in segments
        ]
    return {"metadata": metadata(str(uuid.uuid4()), model_id, seconds, sha256), "results": results}


def error_body(error: ServerError) -> dict[str, Any]:
    return {"err_code": error.code.value.upper(), "err_msg": error.message, "request_id": str(uuid.uuid4())}


def parse_message(text: str) -> dict[str, Any]:
    """A client's text message; empty where it is no JSON object."""
    try:
        return parse_object(text, "a message")
    except ClientError:
        return {}


def closes_stream(text: str) -> bool:
    """Whether a client's text message says that the audio has ended."""
    return parse_message(text).get("type") == "CloseStream"


def configured(request_id: str, message: Mapping[str, Any]) -> DeepgramMessage:
    """The answer to Configure. Features are taken as they are: what is told was asked for at the beginning."""
    if not message.get("keyterms"):
        return DeepgramMessage({"type": "ConfigureSuccess", "request_id": request_id})
    return DeepgramMessage(
        {
            "type": "ConfigureFailure",
            "request_id": request_id,
            "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
            "description": "Moonshine has no vocabulary bias",
        }
    )


def schema_error(message: str) -> DeepgramMessage:
    return DeepgramMessage({"type": "Error", "variant": "SchemaError", "description": message, "message": message})
