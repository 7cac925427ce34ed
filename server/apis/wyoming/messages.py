"""The Wyoming protocol of Home Assistant: its frames, and the events of a stream as its messages."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.languages import language_of
from runtime.version import version
from server.apis import languages
from server.apis.json_text import encoded
from server.audio.input import AudioFormat, SampleEncoding
from server.errors import ClientError, Code, ServerError
from server.stream.events import Event, Final, Update
from server.stream.stream import Options

MAX_HEADER_BYTES = 64 * 1024
MAX_BLOCK_BYTES = 1024 * 1024  # of data, and of payload
ENCODINGS = {1: SampleEncoding.PCM8, 2: SampleEncoding.PCM16, 4: SampleEncoding.PCM32}
"""Encodings by the bytes of a sample."""


END_EARLY = "end_of_turn"
"""Field in the context of transcribe: the transcript is wanted when the speaker has finished, before audio-stop."""
EARLY = Options(silence_seconds=2.0, end_threshold=0.7, closes_turns=True)


@dataclass(frozen=True)
class Header:
    """The first line of a frame. data_bytes of JSON and payload_bytes of payload follow it."""

    kind: str
    data: Mapping[str, Any]
    data_bytes: int
    payload_bytes: int

    @classmethod
    def parse(cls, line: bytes) -> "Header":
        """Raises ClientError."""
        header = parse_object(line)
        data_bytes, payload_bytes = header.get("data_length") or 0, header.get("payload_length") or 0
        for length in (data_bytes, payload_bytes):
            if not isinstance(length, int) or not 0 <= length <= MAX_BLOCK_BYTES:
                raise ClientError(Code.MESSAGE_TOO_LARGE, f"a block may have {MAX_BLOCK_BYTES} bytes")
        data = header.get("data") or {}
        if not isinstance(header.get("type"), str) or not isinstance(data, dict):
            raise ClientError(Code.BAD_MESSAGE, "a frame begins with a JSON object that has a type")
        return cls(header["type"], data, data_bytes, payload_bytes)

    def with_data(self, block: bytes) -> Mapping[str, Any]:
        """Return the data of the header, updated with the block after it."""
        return {**self.data, **parse_object(block)} if block else self.data


def parse_object(text: bytes) -> dict[str, Any]:
    """Raises ClientError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ClientError(Code.BAD_JSON, "a frame begins with a line of JSON") from exc
    if not isinstance(value, dict):
        raise ClientError(Code.BAD_JSON, "a frame begins with a JSON object")
    return value


def audio_format(data: Mapping[str, Any]) -> AudioFormat:
    """Parse the format in audio-start or audio-chunk. Raises ClientError."""
    width, rate, channels = data.get("width", 2), data.get("rate", 16_000), data.get("channels", 1)
    encoding = ENCODINGS.get(width) if isinstance(width, int) else None
    if encoding is None or not isinstance(rate, int) or not isinstance(channels, int):
        raise ClientError(Code.BAD_AUDIO, "audio has a whole rate, channels, and a width of 1, 2 or 4 bytes")
    try:
        return AudioFormat(encoding, rate, channels)
    except ValueError as exc:
        raise ClientError(Code.BAD_AUDIO, str(exc)) from exc


def check_transcribe(data: Mapping[str, Any], model_id: str) -> None:
    """Raises ClientError for a language that the model does not transcribe."""
    languages.check([str(data.get("language") or "")], model_id)


def ends_early(data: Mapping[str, Any]) -> bool:
    """Return whether a `transcribe` asks for the transcript as soon as the speaker has finished."""
    context = data.get("context")
    return isinstance(context, dict) and context.get(END_EARLY) is True


@dataclass(frozen=True)
class WyomingMessage:
    """A message to the client."""

    op: str
    data: Mapping[str, Any] = field(default_factory=dict)
    latency_ms: float | None = None
    droppable: bool = False

    @property
    def reason(self) -> str:
        return str(self.data.get("code"))

    def forms(self) -> "Iterator[WyomingMessage]":
        yield self

    def encode(self) -> str:
        return encoded({"type": self.op, "data": self.data}) + "\n"


class TranscriptWriter:
    """Writes one utterance's events: chunks of stable text, then the transcript."""

    def __init__(self, language: str) -> None:
        """language: language of the model, as ISO 639-1."""
        self._language = language
        self._sent_characters = 0

    def write(self, event: Event) -> Iterator[WyomingMessage]:
        match event:
            case Update(text=text, stable=stable) if stable > self._sent_characters:
                yield from self._chunk(text[:stable])
            case Final(text=text, latency_ms=latency_ms):
                is_streamed = self._sent_characters > 0
                if is_streamed and len(text) > self._sent_characters:
                    yield from self._chunk(text)
                yield transcript(text, self._language, latency_ms)
                if is_streamed:
                    yield WyomingMessage("transcript-stop")

    def _chunk(self, text: str) -> Iterator[WyomingMessage]:
        if not self._sent_characters:
            yield WyomingMessage("transcript-start", {"language": self._language})
        yield WyomingMessage("transcript-chunk", {"text": text[self._sent_characters :]})
        self._sent_characters = len(text)


def transcript(text: str, language: str, latency_ms: float | None = None) -> WyomingMessage:
    return WyomingMessage("transcript", {"text": text, "language": language}, latency_ms)


def pong(data: Mapping[str, Any]) -> WyomingMessage:
    return WyomingMessage("pong", {"text": data.get("text")})


def error(failure: ServerError) -> WyomingMessage:
    return WyomingMessage("error", {"text": failure.message, "code": failure.code.value})


def info(model_id: str) -> WyomingMessage:
    """Describe the server: Home Assistant asks for it before it offers the server to its users."""
    described = {
        "attribution": {"name": "Moonshine AI", "url": "https://github.com/moonshine-ai/moonshine"},
        "installed": True,
        "version": version(),
    }
    model = described | {"name": model_id, "description": model_id, "languages": [language_of(model_id).code]}
    program = described | {
        "name": "moonshine-asr",
        "description": "Moonshine speech to text",
        "models": [model],
        "supports_transcript_streaming": True,
        "requires_external_vad": True,
    }
    others: dict[str, list[Any]] = {kind: [] for kind in ("tts", "handle", "intent", "wake", "mic", "snd")}
    return WyomingMessage("info", {"asr": [program]} | others)
