"""The query of Deepgram's /v1/listen, of a stream or a recording. Unknown parameters are ignored."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from runtime.languages import ENGLISH, language_of
from server.apis import languages, text_options
from server.apis.terms import MOST_BOOST, checked
from server.audio.input import MAX_CHANNELS, AudioFormat, SampleEncoding
from server.errors import ClientError, Code
from server.stream.formatting.options import PLAIN_TEXT, TextOptions
from server.stream.stream import Options
from server.stream.terms import DEFAULT_BOOST, Term

ENCODINGS = {"linear16": SampleEncoding.PCM16, "mulaw": SampleEncoding.MULAW, "alaw": SampleEncoding.ALAW}
LEAST_UTTERANCE_END_MS = 1000  # Deepgram's
DEFAULT_ENDPOINTING_MS, LEAST_ENDPOINTING_MS, MOST_ENDPOINTING_MS = 10, 200, 10_000  # less would end turns within words
VAD_SILENCE_SECONDS = 1.0  # if speech is reported and no turn is ended
MOST_SEARCHED = 50  # Deepgram's

Fields: TypeAlias = Sequence[tuple[str, str]]
"""Names and values of a query, in its order."""


@dataclass(frozen=True)
class ListenParameters:
    """Parameters of a live stream."""

    audio_format: AudioFormat
    """Format of raw audio, or of the audio decoded from a container."""
    is_container: bool
    """True if the audio comes in a container, which has its format in itself."""
    interims: bool
    sends_speech: bool
    endpointing_ms: int | None
    utterance_end_ms: int | None = None
    terms: tuple[Term, ...] = ()
    text: TextOptions = PLAIN_TEXT
    search: tuple[str, ...] = ()
    """Words and phrases to search for in the text."""
    is_split: bool = False
    """True if each channel is transcribed by itself."""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def channels(self) -> int:
        """Number of channels that are transcribed."""
        return self.audio_format.channels if self.is_split else 1

    @property
    def options(self) -> Options:
        silence_seconds = None if self.endpointing_ms is None else self.endpointing_ms / 1000
        if silence_seconds is None and (self.sends_speech or self.utterance_end_ms is not None):
            silence_seconds = VAD_SILENCE_SECONDS
        closes_turns = self.endpointing_ms is not None
        return Options(words=True, silence_seconds=silence_seconds, closes_turns=closes_turns, terms=self.terms, text=self.text)


def parse(fields: Fields, model_id: str) -> ListenParameters:
    """Parse the query of a live stream. Raises ClientError."""
    query = dict(fields)
    check(query, model_id)
    is_split = is_true(query, "multichannel")
    is_container = not query.get("encoding")
    return ListenParameters(
        parse_container(query, is_split) if is_container else parse_format(query),
        is_container,
        interims=is_true(query, "interim_results"),
        sends_speech=is_true(query, "vad_events"),
        endpointing_ms=parse_endpointing(query),
        utterance_end_ms=parse_utterance_end(query),
        terms=parse_terms(fields),
        text=parse_text_options(fields, model_id),
        search=parse_search(fields),
        is_split=is_split,
    )


def check(query: Mapping[str, str], model_id: str) -> None:
    """Check the parameters that streams and recordings have in common. Raises ClientError."""
    languages.check([query.get("language", "")], model_id)
    if query.get("callback", "false").lower() not in ("false", ""):
        raise ClientError(Code.UNSUPPORTED_PARAMETER, "callback is not supported here", "callback")


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


def parse_container(query: Mapping[str, str], is_split: bool) -> AudioFormat:
    """Return the format of decoded audio. is_split: it has two channels, or as many as requested. Raises ClientError."""
    channels = number(query, "channels", 2) if is_split else 1
    if not 1 <= channels <= MAX_CHANNELS:
        raise ClientError(Code.INVALID_VALUE, f"channels: from 1 to {MAX_CHANNELS} are taken", "channels")
    return AudioFormat(channels=channels)


def parse_terms(fields: Fields) -> tuple[Term, ...]:
    """Parse each `keyterm`, and each `keywords` with the boost after its last colon. Raises ClientError."""
    terms = checked(map(Term, values_of(fields, "keyterm")), "keyterm")
    keywords = checked(map(parse_keyword, values_of(fields, "keywords")), "keywords")
    return checked([*terms, *keywords], "keyterm")


def parse_keyword(value: str) -> Term:
    """Parse `word` or `word:boost`. Deepgram's usual boost of 1 is our default. Raises ClientError."""
    word, colon, boost = value.rpartition(":")
    if not colon:
        return Term(value)
    try:
        asked = DEFAULT_BOOST * float(boost)
    except ValueError:
        raise ClientError(Code.INVALID_VALUE, f"keywords: {boost[:40]!r} after the colon is no number", "keywords") from None
    return Term(word, MOST_BOOST if asked > MOST_BOOST else asked)


def parse_text_options(fields: Fields, model_id: str) -> TextOptions:
    """Parse the options of the text. smart_format writes numbers in digits, too. Raises ClientError.

    If the model writes another language, the options for English text are ignored, and redaction is refused.
    """
    query = dict(fields)
    pairs = (value.partition(":") for value in values_of(fields, "replace"))
    is_english = language_of(model_id) is ENGLISH
    options = TextOptions(
        numerals=is_english and (is_true(query, "numerals") or is_true(query, "smart_format")),
        redacted=text_options.secrets(values_of(fields, "redact")),
        masks_profanity=is_english and is_true(query, "profanity_filter"),
        drops_fillers=is_english and query.get("filler_words", "").lower() == "false",
        replacements=text_options.replacements((find, replace) for find, _, replace in pairs),
    )
    text_options.check_language(options, model_id)
    return options


def parse_search(fields: Fields) -> tuple[str, ...]:
    """Raises ClientError."""
    found = tuple(dict.fromkeys(value for value in values_of(fields, "search") if value.strip()))
    if len(found) > MOST_SEARCHED:
        raise ClientError(Code.INVALID_VALUE, f"search: {MOST_SEARCHED} phrases at most are looked for", "search")
    for phrase in found:
        text_options.check_text(phrase, "search")
    return found


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


def values_of(fields: Fields, name: str) -> list[str]:
    """Return all values of a parameter that may be given several times."""
    return [value for each, value in fields if each == name]


def is_true(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "false").lower() == "true"


def number(query: Mapping[str, str], name: str, default: int) -> int:
    value = query.get(name, str(default))
    if not value.isdecimal() or len(value) > 9:
        raise ClientError(Code.INVALID_VALUE, f"{name} must be a whole number", name)
    return int(value)
