"""The query of Deepgram's /v2/listen (Flux), and the changes by its Configure message."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.apis import languages
from server.apis.deepgram.query import Fields, parse_container, parse_format, parse_terms, parse_text_options, values_of
from server.apis.json_object import are_texts
from server.apis.terms import checked
from server.audio.input import AudioFormat
from server.errors import ClientError, Code
from server.stream.formatting.options import PLAIN_TEXT, TextOptions
from server.stream.stream import Options
from server.stream.terms import Term

SILENCE_SECONDS = 0.2  # silence after which a turn may be over
LEAST_EOT, MOST_EOT, DEFAULT_EOT = 0.5, 1.0, 0.7
LEAST_EAGER, MOST_EAGER = 0.3, 0.9
LEAST_TIMEOUT_MS, MOST_TIMEOUT_MS, DEFAULT_TIMEOUT_MS = 500, 60_000, 5_000


@dataclass(frozen=True)
class Thresholds:
    """Conditions on the probability that a turn is over."""

    eot_threshold: float = DEFAULT_EOT
    """Probability that ends a turn; 1 is never reached."""
    eager_eot_threshold: float | None = None
    """Probability at which the client is informed that the turn may be over; None: it is not informed."""
    eot_timeout_ms: int = DEFAULT_TIMEOUT_MS
    """Silence that ends a turn, regardless of the probability."""


@dataclass(frozen=True)
class FluxParameters:
    """Parameters of a live stream with turns."""

    audio_format: AudioFormat
    """Format of raw audio, or of the audio decoded from a container."""
    is_container: bool
    thresholds: Thresholds
    terms: tuple[Term, ...] = ()
    text: TextOptions = PLAIN_TEXT
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    channels = 1
    is_split = False

    @property
    def options(self) -> Options:
        return Options(words=True, silence_seconds=SILENCE_SECONDS, weighs_pauses=True, terms=self.terms, text=self.text)


def parse(fields: Fields, model_id: str) -> FluxParameters:
    """Parse the query of a live stream; unknown parameters are ignored. Raises ClientError."""
    query = dict(fields)
    languages.check(values_of(fields, "language_hint"), model_id)
    is_container = not query.get("encoding")
    asked = {name: text_number(query[name], name) for name in Thresholds.__dataclass_fields__ if query.get(name)}
    return FluxParameters(
        parse_container(query, is_split=False) if is_container else parse_format(query),
        is_container,
        changed(Thresholds(), asked),
        parse_terms(fields),
        parse_text_options(fields, model_id),
    )


def text_number(value: str, name: str) -> float:
    """Raises ClientError."""
    try:
        return float(value)
    except ValueError:
        raise ClientError(Code.INVALID_VALUE, f"{name} must be a number", name) from None


def changed(thresholds: Thresholds, asked: Mapping[str, Any]) -> Thresholds:
    """Return the thresholds with the requested ones in place of the old ones. Raises ClientError."""
    limits = {
        "eot_threshold": (LEAST_EOT, MOST_EOT),
        "eager_eot_threshold": (LEAST_EAGER, MOST_EAGER),
        "eot_timeout_ms": (LEAST_TIMEOUT_MS, MOST_TIMEOUT_MS),
    }
    given = {name: asked[name] for name in limits if asked.get(name) is not None}
    if "eager_eot_threshold" in asked and asked["eager_eot_threshold"] is None:
        thresholds = replace(thresholds, eager_eot_threshold=None)
    for name, value in given.items():
        least, most = limits[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and least <= value <= most):
            raise ClientError(Code.INVALID_VALUE, f"{name} must be a number from {least:g} to {most:g}", name)
    found = replace(thresholds, **{name: int(value) if name == "eot_timeout_ms" else value for name, value in given.items()})
    if found.eager_eot_threshold is not None and found.eager_eot_threshold > found.eot_threshold:
        raise ClientError(Code.INVALID_VALUE, "eager_eot_threshold must not be greater than eot_threshold", "eager_eot_threshold")
    return found


def configured(parameters: FluxParameters, message: Mapping[str, Any], model_id: str) -> FluxParameters:
    """Return the parameters with the changes of a Configure message. Raises ClientError."""
    thresholds, terms, hints = message.get("thresholds"), message.get("keyterms"), message.get("language_hints")
    if thresholds is not None and not isinstance(thresholds, dict):
        raise ClientError(Code.INVALID_VALUE, "thresholds must be an object", "thresholds")
    for name, value in (("keyterms", terms), ("language_hints", hints)):
        if value is not None and not are_texts(value):
            raise ClientError(Code.INVALID_VALUE, f"{name} must be a list of texts", name)
    for name, now in (("numerals", parameters.text.numerals), ("profanity_filter", parameters.text.masks_profanity)):
        if message.get(name) not in (None, now):
            raise ClientError(Code.UNSUPPORTED_PARAMETER, f"{name} cannot be changed in mid-stream", name)
    languages.check(hints or (), model_id)
    return replace(
        parameters,
        thresholds=changed(parameters.thresholds, thresholds or {}),
        terms=parameters.terms if terms is None else checked(map(Term, terms), "keyterms"),
    )
