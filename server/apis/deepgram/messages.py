"""Messages of Deepgram's /v1/listen: events in its format, and the messages of its clients."""

import math
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from server.apis.deepgram import search
from server.apis.deepgram.query import ListenParameters
from server.apis.json_object import are_texts, parse_object
from server.apis.json_text import JsonMessage
from server.apis.terms import checked
from server.errors import ClientError, Code, ServerError
from server.stream.events import Event, Final, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.terms import Term
from server.stream.transcript import Segment
from server.stream.word_times import Word

PUNCTUATION = '.,?!;:…"“”()¿¡'


@dataclass
class ResultsWriter:
    """Writes the events of one channel; remembers the final text."""

    SPEECH: ClassVar[str] = "speech_final"
    FINALIZE: ClassVar[str] = "from_finalize"

    parameters: ListenParameters
    model_id: str
    channel: int = 0
    _final_segments: int = 0
    _final_characters: int = 0
    _final_ms: int = 0
    _flushes: deque[str] = field(default_factory=deque)
    """Reasons of the flushes under way, the oldest first."""
    _silent_since_ms: int | None = None
    _last_word_end_ms: int | None = None

    @property
    def _channel_index(self) -> list[int]:
        """The channel, counted from 0, and the number of channels."""
        return [self.channel, self.parameters.channels]

    def finalize(self) -> None:
        """Note a flush that the client has requested."""
        self._flushes.append(self.FINALIZE)

    def receive(self, audio_ms: int) -> Iterator[JsonMessage]:
        """Write UtteranceEnd if an utterance has ended by now. audio_ms: milliseconds of audio received so far."""
        since, after = self._silent_since_ms, self.parameters.utterance_end_ms
        if since is None or after is None or audio_ms - since < after or self._flushes:
            return
        self._silent_since_ms = None
        last = -1 if self._last_word_end_ms is None else self._last_word_end_ms / 1000
        yield JsonMessage({"type": "UtteranceEnd", "channel": self._channel_index, "last_word_end": last})

    def write(self, event: Event) -> Iterator[JsonMessage]:
        match event:
            case SpeechStarted(at_ms):
                self._silent_since_ms = None
                if self.parameters.sends_speech:
                    yield JsonMessage({"type": "SpeechStarted", "channel": self._channel_index, "timestamp": at_ms / 1000})
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

    def _closed(self, segments: Sequence[Segment], why: str | None = None, until_ms: int = 0) -> Iterator[JsonMessage]:
        """Write the segments that have closed since the last call; the last of them has the reason, if there is one."""
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

    def _results(self, text: str, end_ms: int, words: Sequence[Word], log_prob: float, why: str | None) -> JsonMessage:
        message = self._message(text, end_ms, words, log_prob) | {"is_final": True} | ({why: True} if why else {})
        self._final_ms = end_ms
        return JsonMessage(message)

    def _interim(self, update: Update) -> JsonMessage:
        text = update.text[self._final_characters :].lstrip()
        return JsonMessage(
            self._message(text, max(update.audio_ms, self._final_ms), (), 0.0), droppable=True, latency_ms=update.latency_ms
        )

    def _message(self, text: str, end_ms: int, words: Sequence[Word], log_prob: float) -> dict[str, Any]:
        return {
            "type": "Results",
            "channel_index": self._channel_index,
            "start": self._final_ms / 1000,
            "duration": (end_ms - self._final_ms) / 1000,
            "is_final": False,
            "speech_final": False,
            "from_finalize": False,
            "channel": {"alternatives": [alternative(text, words, log_prob)], **search.described(self.parameters.search, words)},
            "metadata": {
                "request_id": self.parameters.request_id,
                "model_uuid": self.parameters.request_id,
                "model_info": model_info(self.model_id),
            },
        }


def alternative(text: str, words: Sequence[Word], log_prob: float) -> dict[str, Any]:
    confidence = round(math.exp(min(0.0, log_prob)), 4) if text else 0.0
    return {"transcript": text, "confidence": confidence, "words": [described(word) for word in words]}


def described(word: Word) -> dict[str, Any]:
    return {
        "word": word.w.lower().strip(PUNCTUATION),
        "start": word.start_ms / 1000,
        "end": word.end_ms / 1000,
        "confidence": word.confidence,
        "punctuated_word": word.w,
    }


def model_info(model_id: str) -> dict[str, str]:
    return {"name": model_id, "version": "", "arch": "moonshine"}


def metadata(request_id: str, model_id: str, seconds: float, sha256: str, channels: int = 1) -> dict[str, Any]:
    return {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": datetime.now(UTC).isoformat(),
        "duration": seconds,
        "channels": channels,
        "models": [request_id],
        "model_info": {request_id: model_info(model_id)},
    }


def metadata_message(parameters: ListenParameters, model_id: str, audio_ms: int) -> JsonMessage:
    """Return the last message of a stream."""
    fields = metadata(parameters.request_id, model_id, audio_ms / 1000, "", parameters.channels)
    return JsonMessage({"type": "Metadata"} | fields)


def error_body(error: ServerError) -> dict[str, Any]:
    return {"err_code": error.code.value.upper(), "err_msg": error.message, "request_id": str(uuid.uuid4())}


def parse_message(text: str) -> dict[str, Any]:
    """Parse a client's text message; empty if it is no JSON object."""
    try:
        return parse_object(text, "a message")
    except ClientError:
        return {}


def closes_stream(text: str) -> bool:
    """Return whether a client's text message ends the audio."""
    return parse_message(text).get("type") == "CloseStream"


def configured_terms(message: Mapping[str, Any]) -> tuple[Term, ...] | None:
    """Return the keyterms of a Configure message; None if it does not change them. Raises ClientError."""
    asked = message.get("keyterms")
    if asked is None:
        return None
    if not are_texts(asked):
        raise ClientError(Code.INVALID_VALUE, "keyterms must be a list of texts", "keyterms")
    return checked(map(Term, asked), "keyterms")


def configure_success(request_id: str) -> JsonMessage:
    return JsonMessage({"type": "ConfigureSuccess", "request_id": request_id})


def configure_failure(request_id: str, error: ClientError) -> JsonMessage:
    fields = {"type": "ConfigureFailure", "request_id": request_id, "code": "CONFIGURE_KEYTERMS_INVALID"}
    return JsonMessage(fields | {"description": error.message})


def schema_error(message: str) -> JsonMessage:
    return JsonMessage({"type": "Error", "variant": "SchemaError", "description": message, "message": message})
