"""OpenAI's transcription API: the fields of a request, and the bodies and events of its answers."""

import enum
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonshine_client import subtitles
from runtime.languages import ENGLISH, Language, language_of
from server.apis import languages
from server.apis.json_text import encoded
from server.apis.terms import with_prompt
from server.errors import ClientError, Code, Refused, ServerError
from server.sessions.recording import RecordingText
from server.stream.stream import Options
from server.stream.terms import Term
from server.stream.transcript import Segment
from server.stream.word_times import Word

ALIASES = (
    "default",
    "whisper-1",
    "gpt-transcribe",
    "gpt-live-transcribe",
    "gpt-realtime-whisper",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
)
"""Names that clients ask for; all of them mean the model that is served."""
SPEAKER_FIELDS = ("known_speaker_names", "known_speaker_references")
SERVER_ERROR, CLIENT_ERROR = "server_error", "invalid_request_error"


class ResponseFormat(enum.StrEnum):
    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"


@dataclass(frozen=True)
class TranscriptionParameters:
    """Parameters of a recording."""

    format: ResponseFormat
    granularities: frozenset[str]
    """Granularities of verbose_json: segment, word."""
    is_streamed: bool
    """True if events are wanted while the recording is transcribed."""
    language: Language = ENGLISH
    """Language of the model."""
    terms: tuple[Term, ...] = ()
    log_probs: bool = False
    """True if the probabilities of tokens are wanted."""
    is_split: bool = False
    """True if each channel is transcribed by itself. OpenAI has no such parameter."""

    @property
    def options(self) -> Options:
        """Options of the stream, with the times of words if they are needed."""
        words = self.format in (ResponseFormat.SRT, ResponseFormat.VTT) or "word" in self.granularities
        return Options(words=words, terms=self.terms, tokens=self.log_probs)


def parse(fields: Sequence[tuple[str, str]], model_id: str) -> TranscriptionParameters:
    """Parse names and values of a form, without the file. Fields that Moonshine cannot use are ignored. Raises ClientError."""
    values = grouped(fields)
    check_model(last(values, "model"), model_id)
    language = languages.check([*values.get("language", []), *values.get("languages", [])], model_id)
    check_temperature(last(values, "temperature"))
    for name in SPEAKER_FIELDS:
        if values.get(name):
            raise ClientError(Code.UNSUPPORTED_PARAMETER, "speakers are not told apart here", name)
    wanted = parse_format(last(values, "response_format") or ResponseFormat.JSON)
    granularities = (
        parse_granularities(values.get("timestamp_granularities", [])) if wanted is ResponseFormat.VERBOSE_JSON else frozenset()
    )
    streamed = is_true(values, "stream") and wanted in (ResponseFormat.JSON, ResponseFormat.VERBOSE_JSON)
    given = values.get("keywords", [])
    keywords = [keyword for value in given for keyword in (parse_list(value) if value.strip().startswith("[") else [value])]
    terms = with_prompt(map(Term, keywords), last(values, "prompt") or "", "keywords")
    log_probs = wanted is ResponseFormat.JSON and "logprobs" in values.get("include", [])
    is_split = is_true(values, "multichannel")
    return TranscriptionParameters(wanted, granularities, streamed, language, terms, log_probs, is_split)


def parse_list(value: str) -> list[str]:
    """Parse a list, which some clients send as one text."""
    return [name.strip(" []'\"") for name in value.split(",")]


def grouped(fields: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Group the values by name: `languages[]` and `languages` are one name. An empty field counts as absent."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        if value.strip():
            values.setdefault(name.removesuffix("[]"), []).append(value)
    return values


def last(values: Mapping[str, Sequence[str]], name: str) -> str | None:
    return values[name][-1].strip() if values.get(name) else None


def is_true(values: Mapping[str, Sequence[str]], name: str) -> bool:
    return (last(values, name) or "").lower() in ("true", "1")


def check_model(asked: str | None, model_id: str) -> None:
    if not asked:
        raise ClientError(Code.MISSING_PARAMETER, "the field model is missing", "model")
    if asked not in (*names_of(model_id), *ALIASES):
        raise ClientError(Code.MODEL_NOT_FOUND, f"the model {asked[:80]!r} is not served here; {model_id} is", "model")


def names_of(model_id: str) -> tuple[str, str]:
    """Return both names of a model: UsefulSensors/moonshine-base and moonshine-base."""
    return model_id, model_id.rpartition("/")[2]


def check_temperature(asked: str | None) -> None:
    """Check the temperature. It changes nothing: decoding is greedy."""
    try:
        is_good = asked is None or 0 <= float(asked.replace(",", ".")) <= 1
    except ValueError:
        is_good = False
    if not is_good:
        raise ClientError(Code.INVALID_VALUE, "temperature must be a number from 0 to 1", "temperature")


def parse_format(asked: str) -> ResponseFormat:
    try:
        return ResponseFormat(asked)
    except ValueError:
        known = ", ".join(ResponseFormat)
        raise ClientError(
            Code.UNSUPPORTED_VALUE, f"response_format {asked[:40]!r} is not one of {known}", "response_format"
        ) from None


def parse_granularities(asked: Sequence[str]) -> frozenset[str]:
    named = {name for value in asked for name in parse_list(value)} - {""}
    if unknown := named - {"word", "segment"}:
        said = f"timestamp_granularities {min(unknown)[:40]!r} is neither word nor segment"
        raise ClientError(Code.INVALID_VALUE, said, "timestamp_granularities")
    return frozenset(named or {"segment"})


def body(parameters: TranscriptionParameters, found: RecordingText) -> tuple[str, str]:
    """Return the answer and its media type."""
    match parameters.format:
        case ResponseFormat.TEXT:
            return subtitles.plain(found.text, found.segments) + "\n", "text/plain; charset=utf-8"
        case ResponseFormat.SRT:
            return subtitles.srt(found.segments), "text/plain; charset=utf-8"
        case ResponseFormat.VTT:
            return subtitles.vtt(found.segments), "text/vtt; charset=utf-8"
        case ResponseFormat.VERBOSE_JSON:
            return encoded(verbose(parameters, found)), "application/json"
        case ResponseFormat.JSON:
            plain = {"text": found.text, "languages": [{"code": parameters.language.code}], "usage": usage(found)}
            return encoded(plain | log_probs_of(parameters, found.segments)), "application/json"


def log_probs_of(parameters: TranscriptionParameters, segments: Sequence[Segment], begins: bool = True) -> dict[str, Any]:
    """Return the field logprobs if it was requested. begins: True if the segments are the first of the text."""
    return {"logprobs": token_log_probs(segments, begins)} if parameters.log_probs else {}


def token_log_probs(segments: Sequence[Segment], begins: bool = True) -> list[dict[str, Any]]:
    """Return the log-probabilities of the tokens. Their joined texts are the text of the segments.

    begins: True if the first token has no space before it.
    """
    tokens = [(token.text, token.log_prob) for segment in segments for token in segment.tokens]
    if begins and tokens:
        tokens[0] = (tokens[0][0].lstrip(), tokens[0][1])
    return [
        {"token": text.decode(errors="replace"), "logprob": round(log_prob, 4), "bytes": list(text)} for text, log_prob in tokens
    ]


def verbose(parameters: TranscriptionParameters, found: RecordingText) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "task": "transcribe",
        "language": parameters.language.name,
        "duration": found.seconds,
        "text": found.text,
    }
    if "segment" in parameters.granularities:
        fields["segments"] = [described(number, segment) for number, segment in enumerate(found.segments)]
    if "word" in parameters.granularities:
        fields["words"] = [described_word(word, segment) for segment in found.segments for word in segment.words or ()]
    return fields | {"usage": usage(found)}


def described_word(word: Word, segment: Segment) -> dict[str, Any]:
    return {"word": word.w, "start": word.start_ms / 1000, "end": word.end_ms / 1000} | channel_of(segment)


def channel_of(segment: Segment) -> dict[str, Any]:
    return {} if segment.channel is None else {"channel": segment.channel}


def described(number: int, segment: Segment) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": segment.start_ms / 1000,
        "end": segment.end_ms / 1000,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(segment.log_prob, 4),
        "no_speech_prob": 0.0,
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
    } | channel_of(segment)


def usage(found: RecordingText) -> dict[str, Any]:
    return {"type": "duration", "seconds": found.seconds}


def delta(parameters: TranscriptionParameters, text: str, found: RecordingText) -> str:
    """Write the event of one chunk. With verbose_json it also has the fields of that answer.

    text: text of the chunk, with the space before it. found: transcription of the chunk.
    """
    more = verbose(parameters, found) if parameters.format is ResponseFormat.VERBOSE_JSON else {}
    more |= log_probs_of(parameters, found.segments, begins=not text.startswith(" "))
    return server_sent(more | {"type": "transcript.text.delta", "delta": text})


def done(parameters: TranscriptionParameters, found: RecordingText) -> str:
    """Write the last event. With verbose_json it also has the fields of that answer."""
    more = verbose(parameters, found) if parameters.format is ResponseFormat.VERBOSE_JSON else {}
    more |= log_probs_of(parameters, found.segments)
    languages = [{"code": parameters.language.code}]
    event = {"type": "transcript.text.done", "text": found.text, "languages": languages, "usage": usage(found)}
    return server_sent(more | event)


def server_sent(event: Mapping[str, Any]) -> str:
    return f"data: {encoded(event)}\n\n"


def error_body(error: ServerError) -> dict[str, Any]:
    kind = SERVER_ERROR if isinstance(error, Refused) or error.code.http_status >= 500 else CLIENT_ERROR
    parameter = getattr(error, "parameter", None)
    code = "invalid_api_key" if error.code.http_status == 401 else error.code.value
    return {"error": {"message": error.message, "type": kind, "param": parameter, "code": code}}


@dataclass(frozen=True)
class ServedModel:
    """The model that is served, as /v1/models describes it."""

    id: str
    precision: str = ""
    """Precision that the engine computes in; empty if it is not known."""

    @property
    def listing(self) -> dict[str, Any]:
        return {"object": "list", "data": [self.entry(name) for name in names_of(self.id)]}

    def entry(self, name: str) -> dict[str, Any]:
        """Return OpenAI's fields, and the language and precision, which other clients ignore."""
        found = {"id": name, "object": "model", "created": 0, "owned_by": "moonshine-asr"}
        return found | {"language": language_of(self.id).code, "precision": self.precision}

    def find(self, name: str) -> dict[str, Any]:
        """Raises ClientError."""
        check_model(name, self.id)
        return self.entry(name)
