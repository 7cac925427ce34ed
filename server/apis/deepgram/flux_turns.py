"""The turns of a Flux stream. They depend on the stream's events and on the amount of received audio. No I/O, no clock.

Within a turn the order is StartOfTurn, Update…, (EagerEndOfTurn, TurnResumed)…, EndOfTurn. The text of EndOfTurn is that of the
last EagerEndOfTurn, unless TurnResumed came between.
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from server.apis.deepgram.flux_query import Thresholds
from server.stream.events import Event, Final, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.transcript import Segment
from server.stream.turn_end import NO_EVIDENCE, PauseEvidence, probability_of_end

OPEN_CONFIDENCE = 0.5
"""Confidence of words whose segment is open: they have not been judged yet."""


NEVER = 1.0
"""A threshold that no probability reaches."""
REST_MS = 1000
"""Time without a change of the text: updates come twice a second."""


class Trigger(enum.StrEnum):
    """Reason for the end of a turn."""

    MODEL = "model"
    MANUAL = "manual"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class TurnInfo:
    """An event of a turn, as Deepgram's clients read it."""

    event: str
    turn_index: int
    start_ms: int
    end_ms: int
    transcript: str
    words: Sequence[dict[str, Any]]
    confidence: float
    """Probability that the turn is over."""
    trigger: Trigger | None = None

    @property
    def fields(self) -> dict[str, Any]:
        found = {
            "event": self.event,
            "turn_index": self.turn_index,
            "audio_window_start": self.start_ms / 1000,
            "audio_window_end": self.end_ms / 1000,
            "transcript": self.transcript,
            "words": list(self.words),
            "end_of_turn_confidence": round(self.confidence, 4),
        }
        return found if self.trigger is None else found | {"trigger": self.trigger.value}


class FluxTurns:
    """Follows one stream."""

    def __init__(self, thresholds: Thresholds):
        self.thresholds = thresholds
        self.trigger: Trigger | None = None
        """Reason for the end of the turn, while its flush is under way."""
        self._index = 0
        self._start_ms = 0
        self._first_character, self._first_segment = 0, 0  # start of the turn in the stream's text
        self._has_begun = False
        self._text, self._words = "", list[dict[str, Any]]()
        self._said_text = ""  # text that the client has
        self._changed_ms = 0  # end of the audio with which the text changed
        self._is_speaking = False
        self._stopped_ms: int | None = None  # end of the last sound, if nobody speaks
        self._eager: str | None = None  # the text of EagerEndOfTurn, if the turn may be over

    def receive(self, audio_ms: int, covered_ms: int, evidence: PauseEvidence = NO_EVIDENCE) -> Iterator[TurnInfo]:
        """Take the length of the audio so far. If this sets `trigger`, the caller must flush the stream.

        covered_ms: position up to which the audio is transcribed. evidence: evidence about the current pause.
        """
        if self._is_speaking or not self._has_begun or self.trigger is not None:
            return
        silence_ms = audio_ms - self._silent_since_ms
        if silence_ms >= self.thresholds.eot_timeout_ms:
            self._begin_end(Trigger.TIMEOUT)
            return
        probability = probability_of_end(silence_ms / 1000, evidence)
        has_last_words = covered_ms >= self._silent_since_ms
        if NEVER > self.thresholds.eot_threshold <= probability:
            self._begin_end(Trigger.MODEL)
        elif self._eager is None and has_last_words and probability >= (self.thresholds.eager_eot_threshold or 2.0):
            self._eager = self._text
            yield self._info("EagerEndOfTurn", audio_ms, probability)

    @property
    def _silent_since_ms(self) -> int:
        """Position since which nobody speaks. If no sound of the words was loud enough, it is when the text rests."""
        if self._stopped_ms is not None and self._stopped_ms >= self._start_ms:
            return self._stopped_ms
        return self._changed_ms + REST_MS

    def force(self) -> None:
        """End the turn for the client."""
        self._begin_end(self.trigger or Trigger.MANUAL)

    def _begin_end(self, trigger: Trigger) -> None:
        """Begin the end of the turn: the stream is flushed now, and later speech begins another turn."""
        self.trigger, self._is_speaking = trigger, False

    def take_back(self) -> None:
        """Note that the last Update was not sent: the next one is sent even if its text is the same."""
        self._said_text = ""

    def write(self, event: Event) -> Iterator[TurnInfo]:
        match event:
            case SpeechStarted(at_ms):
                self._is_speaking = True
                if self.trigger is None:
                    yield from self._resume(at_ms)
            case SpeechStopped(at_ms):
                self._is_speaking, self._stopped_ms = False, at_ms
            case Update() if self.trigger is None:
                yield from self._update(event)
            case Flushed() | Final():
                yield from self._end(event)

    def _update(self, update: Update) -> Iterator[TurnInfo]:
        before = self._text
        self._take(update.text, update.segments)
        if self._text != before:
            self._changed_ms = update.audio_ms
        if not self._text or self._text == self._said_text:
            return
        self._said_text = self._text
        if not self._has_begun:
            self._has_begun = True
            yield self._info("StartOfTurn", update.audio_ms)
        elif self._eager is not None:
            yield from self._resume(update.audio_ms)
        else:
            yield self._info("Update", update.audio_ms)

    def _resume(self, at_ms: int) -> Iterator[TurnInfo]:
        """Yield TurnResumed if the client was informed that the turn may be over."""
        if self._eager is not None:
            self._eager = None
            yield self._info("TurnResumed", at_ms)

    def _end(self, end: Flushed | Final) -> Iterator[TurnInfo]:
        self._take(end.text, end.segments)
        trigger, self.trigger = self.trigger or Trigger.MANUAL, None
        if self._text or self._has_begun:
            if not self._has_begun:
                yield self._info("StartOfTurn", end.audio_ms)
            if self._eager not in (None, self._text):
                yield from self._resume(end.audio_ms)
            yield self._info("EndOfTurn", end.audio_ms, 1.0, trigger)
            self._index += 1
        self._has_begun, self._eager = False, None
        self._first_character, self._first_segment = len(end.text), len(end.segments)
        self._start_ms, self._text, self._said_text, self._words = end.audio_ms, "", "", []

    def _take(self, text: str, segments: Sequence[Segment]) -> None:
        """Take the text of the turn from the text of the stream."""
        closed = segments[self._first_segment :]
        self._text = text[self._first_character :].strip()
        closed_text = " ".join(segment.text for segment in closed)
        self._words = [word for segment in closed for word in words_of(segment)]
        self._words += [described(word, OPEN_CONFIDENCE) for word in self._text[len(closed_text) :].split()]

    def _info(self, event: str, end_ms: int, confidence: float = 0.0, trigger: Trigger | None = None) -> TurnInfo:
        return TurnInfo(
            event, self._index, self._start_ms, max(end_ms, self._start_ms), self._text, self._words, confidence, trigger
        )


def words_of(segment: Segment) -> list[dict[str, Any]]:
    if not segment.words:
        return [described(word, OPEN_CONFIDENCE) for word in segment.text.split()]
    return [described(word.w, word.confidence, word.start_ms, word.end_ms) for word in segment.words]


def described(word: str, confidence: float, start_ms: int | None = None, end_ms: int | None = None) -> dict[str, Any]:
    times = {} if start_ms is None or end_ms is None else {"start": start_ms / 1000, "end": end_ms / 1000}
    return {"word": word, "confidence": confidence} | times
