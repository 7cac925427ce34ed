"""Messages of jambonz's custom speech vendors. No I/O, no clock.

https://docs.jambonz.org/guides/features/custom-stt-providers
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.languages import language_of
from server.apis import languages
from server.apis.json_object import parse_object, whole_number
from server.apis.json_text import JsonMessage
from server.apis.terms import usable
from server.apis.utterances import SILENCE_SECONDS, Utterance
from server.audio.input import AudioFormat, SampleEncoding
from server.errors import ClientError, Code, ServerError
from server.stream.stream import Options
from server.stream.terms import Term

MOST_LANGUAGE_CHARACTERS = 20  # the language is sent back with each text
ENCODINGS = {"LINEAR16": SampleEncoding.PCM16, "MULAW": SampleEncoding.MULAW, "ALAW": SampleEncoding.ALAW}


@dataclass(frozen=True)
class Start:
    """The first message of a call."""

    audio_format: AudioFormat
    interims: bool
    language: str
    terms: tuple[Term, ...]

    @property
    def options(self) -> Options:
        return Options(silence_seconds=SILENCE_SECONDS, closes_turns=True, terms=self.terms)


def parse(text: str) -> dict[str, Any]:
    """Raises ClientError."""
    return parse_object(text, "a message")


def parse_start(message: Mapping[str, Any], model_id: str) -> Start:
    """Raises ClientError."""
    language = str(message.get("language") or "")[:MOST_LANGUAGE_CHARACTERS]
    languages.check([language], model_id)
    return Start(
        parse_format(message), message.get("interimResults") is True, language or language_of(model_id).code, hints_of(message)
    )


def parse_format(message: Mapping[str, Any]) -> AudioFormat:
    """Raises ClientError."""
    name, rate = (
        str(message.get("encoding") or "LINEAR16").upper(),
        whole_number(message.get("sampleRateHz", 8000), "sampleRateHz"),
    )
    if name not in ENCODINGS:
        raise ClientError(Code.UNSUPPORTED_VALUE, f"encoding must be one of {', '.join(ENCODINGS)}", "encoding")
    try:
        return AudioFormat(ENCODINGS[name], rate)
    except ValueError as exc:
        raise ClientError(Code.INVALID_VALUE, f"sampleRateHz: {exc}", "sampleRateHz") from exc


def hints_of(message: Mapping[str, Any]) -> tuple[Term, ...]:
    """Return the hints of a recognizer that can be terms. A hint is a text or {phrase}."""
    options = message.get("options")
    hints = options.get("hints") if isinstance(options, dict) else None
    texts = [each.get("phrase") if isinstance(each, dict) else each for each in hints] if isinstance(hints, list) else []
    return tuple(map(Term, usable(texts)))


def transcription(utterance: Utterance, language: str) -> JsonMessage:
    alternative = {"transcript": utterance.text, "confidence": utterance.confidence}
    fields = {"type": "transcription", "is_final": utterance.is_final, "alternatives": [alternative]}
    return JsonMessage(fields | {"language": language, "channel": 1}, not utterance.is_final, utterance.latency_ms)


def error(error: ServerError) -> JsonMessage:
    return JsonMessage({"type": "error", "error": error.message})
