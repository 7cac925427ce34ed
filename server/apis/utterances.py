"""Utterances of one speaker, for APIs without smaller units: the text since the last pause, interim or final."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.stream.events import Event, Final, Flushed, Update
from server.stream.transcript import Segment

SILENCE_SECONDS = 0.6  # silence that ends an utterance


@dataclass(frozen=True)
class Utterance:
    """The text since the last pause."""

    text: str
    is_final: bool
    confidence: float = 0.0
    """Mean probability of its tokens; 0 if the text may still change."""
    latency_ms: float | None = None


class Utterances:
    """Reads the events of one stream whose turns are closed."""

    def __init__(self) -> None:
        self._first_character, self._first_segment = 0, 0

    def read(self, event: Event) -> Iterator[Utterance]:
        match event:
            case Update():
                if text := event.text[self._first_character :].strip():
                    yield Utterance(text, is_final=False, latency_ms=event.latency_ms)
            case Flushed() | Final():
                if text := event.text[self._first_character :].strip():
                    yield Utterance(text, is_final=True, confidence=confidence_of(event.segments[self._first_segment :]))
                self._first_character, self._first_segment = len(event.text), len(event.segments)


def confidence_of(segments: Sequence[Segment]) -> float:
    log_probs = [segment.log_prob for segment in segments]
    return round(math.exp(min(0.0, sum(log_probs) / len(log_probs))), 4) if log_probs else 0.0
