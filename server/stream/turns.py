"""Turns: when somebody begins and stops speaking. They depend on which levels are sound and on the evidence about each pause."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.audio import SAMPLE_RATE
from server.stream.events import SpeechStarted, SpeechStopped, TurnPause
from server.stream.loudness import LEVEL_SAMPLES, LEVELS_PER_SECOND
from server.stream.turn_end import LEAST_SILENCE_SECONDS, NO_EVIDENCE, TextEvidence, probability_of_end

ONSET_LEVELS, ONSET_LOUD = 6, 4  # newest levels, and how many must be sound when speech begins: a click is shorter
LEVEL_MS = 1000 * LEVEL_SAMPLES // SAMPLE_RATE
LEAST_SILENCE_LEVELS = round(LEAST_SILENCE_SECONDS * LEVELS_PER_SECOND)
ASKING_LEVELS = 7  # silence after which evidence is requested, so that it is there when a turn may end
REPORT_LEVELS = 5  # interval between two reports of one pause
COVERED_SAMPLES = SAMPLE_RATE // 10  # least part of a pause that a text must cover to be evidence about it


@dataclass(frozen=True)
class TurnRule:
    """A rule for the end of a turn."""

    silence_seconds: float
    """Silence that ends a turn, regardless of the evidence."""
    threshold: float | None = None
    """Probability that ends a turn earlier; None: only silence ends it."""
    weighs_pauses: bool = False
    """True if the evidence is used, by the threshold or by the receiver of the events."""
    reports_pauses: bool = False
    """True if each pause is reported with its probability while it lasts."""


class Turns:
    """Takes every level in order. Without a rule it only counts them."""

    def __init__(self, rule: TurnRule | None):
        self.rule = rule
        self.evidence = NO_EVIDENCE
        """Evidence about the current pause."""
        self._recent: deque[bool] = deque(maxlen=ONSET_LEVELS)
        self._levels = 0  # number of levels of the stream so far
        self._loud_until = 0  # the level after the last loud one
        self._is_speaking = False
        self._has_spoken = False  # whether the last sound was speech, not a click
        self._judged_at: int | None = None  # end of the last sound before the pause that the turn model was asked about

    def change(self, rule: TurnRule | None) -> None:
        """Follow another rule from now on."""
        if rule != self.rule:
            self.rule = rule
            self.end()

    def end(self) -> None:
        """End the turn; later speech begins another."""
        self._is_speaking = False
        self._recent.clear()

    def receive(self, loud: Sequence[bool], until: int | None = None) -> Iterator[SpeechStarted | SpeechStopped | TurnPause]:
        """Take levels in order; yields the turns that begin and end within them.

        until: number of the stream's levels including these. If a segment is cut within a level, some levels are measured again,
        or never.
        """
        if until is not None:
            self._levels = max(self._loud_until, until - len(loud))
        if self.rule is None:
            self._levels += len(loud)
            return
        for is_loud in loud:
            self._levels += 1
            self._recent.append(is_loud)
            if is_loud:
                self._loud_until, self.evidence, self._has_spoken = self._levels, NO_EVIDENCE, self._is_speaking
            if not self._is_speaking and sum(self._recent) >= ONSET_LOUD:
                self._is_speaking = self._has_spoken = True
                first = self._levels - len(self._recent) + self._recent.index(True)
                yield SpeechStarted(first * LEVEL_MS)
            elif self._is_speaking:
                yield from self._follow_pause(self.rule)

    def _follow_pause(self, rule: TurnRule) -> Iterator[SpeechStopped | TurnPause]:
        levels = self._levels - self._loud_until
        if rule.reports_pauses and levels >= LEAST_SILENCE_LEVELS and levels % REPORT_LEVELS == 0:
            yield TurnPause(self._loud_until * LEVEL_MS, levels * LEVEL_MS, self._probability)
        yield from self.decide()

    def decide(self) -> Iterator[SpeechStopped]:
        """End the turn if it is over according to the rule, with the present evidence."""
        if self.rule is None or not self._is_speaking:
            return
        levels, probability = self._levels - self._loud_until, self._probability
        is_likely = self.rule.threshold is not None and levels >= LEAST_SILENCE_LEVELS and probability >= self.rule.threshold
        if is_likely or levels >= max(1, round(self.rule.silence_seconds * LEVELS_PER_SECOND)):
            self.end()
            yield SpeechStopped(self._loud_until * LEVEL_MS, probability)

    @property
    def _probability(self) -> float:
        """The probability that the turn is over."""
        return probability_of_end((self._levels - self._loud_until) / LEVELS_PER_SECOND, self.evidence)

    # Evidence about a pause

    @property
    def _is_pausing(self) -> bool:
        """True in a pause after speech whose evidence is weighed."""
        return self._has_spoken and self._levels - self._loud_until >= ASKING_LEVELS and self.weighs_pauses

    @property
    def weighs_pauses(self) -> bool:
        return self.rule is not None and (self.rule.weighs_pauses or self.rule.reports_pauses or self.rule.threshold is not None)

    @property
    def wants_text(self) -> bool:
        """True in a pause that no text covers yet."""
        return self._is_pausing and self.evidence.text is None

    def take_text(self, until: int, evidence: TextEvidence) -> None:
        """Take the evidence of a text that covers the audio up to a position."""
        if self._is_pausing and until >= self._loud_until * LEVEL_SAMPLES + COVERED_SAMPLES:
            self.evidence = replace(self.evidence, text=evidence)

    def pause_to_judge(self) -> int | None:
        """Return the name of the current pause for the turn model, once for each pause; None if there is none."""
        if not self._is_pausing or self._judged_at == self._loud_until:
            return None
        self._judged_at = self._loud_until
        return self._loud_until

    def take_sound(self, pause: int, probability: float) -> None:
        """Take the turn model's probability for a pause, which may be over."""
        if pause == self._loud_until:
            self.evidence = replace(self.evidence, sound=probability)
