"""Attempts at a segment that is to be closed, and when to try again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.scheduler.requests import Result
from runtime.tokenizer import Tokenizer
from server.stream.confidence import DOUBTED_LOG_PROB, END_BIAS, FIRM_END_BIAS, is_speech
from server.stream.repetition import said_once
from server.stream.transcript import NOTHING, Hypothesis
from server.stream.turn_end import LEAST_BELIEF, LEAST_END_LOG_PROB, SENTENCE_ENDS, TextEvidence


@dataclass(frozen=True)
class Attempt:
    """One hypothesis."""

    result: Result
    hypothesis: Hypothesis
    """Hypothesis of the result: NOTHING if it is not speech; only the text before the repetition if it ran away."""
    ran_away: bool
    lost_sight: bool
    """True if it has lost most of the words that were shown."""

    @property
    def is_doubted(self) -> bool:
        return self.ran_away or self.lost_sight or self.hypothesis.belief < DOUBTED_LOG_PROB

    @property
    def rank(self) -> tuple[bool, bool, bool, float]:
        """Rank of the attempt; the best one has the highest. An attempt that ran away is usable only if its frames are known."""
        is_usable = not self.ran_away or self.result.first_frames is not None
        return not self.lost_sight, not self.ran_away, is_usable, self.hypothesis.belief


def attempt_of(result: Result, tokenizer: Tokenizer, has_lost_sight: Callable[[Sequence[int]], bool]) -> Attempt:
    hypothesis = hypothesis_of(result, tokenizer)
    ran_away = result.cut_short and said_once(result.tokens) is not None
    return Attempt(result, hypothesis, ran_away, has_lost_sight(hypothesis.tokens))


def hypothesis_of(result: Result, tokenizer: Tokenizer) -> Hypothesis:
    """Return the hypothesis of a result without text that is not trusted. Stable text is kept in any case."""
    tokens, forced = result.tokens, result.request.forced
    if not tokens or (not forced and not is_speech(result.log_probs, tokenizer.text(tokens))):
        return NOTHING
    kept = said_once(tokens) if result.cut_short else None
    end = len(tokens) if kept is None else max(kept, forced)
    return Hypothesis(tokens[:end], result.log_probs[:end])


def evidence_of(result: Result, hypothesis: Hypothesis, tokenizer: Tokenizer) -> TextEvidence:
    """Return the evidence of a hypothesis about the pause at its end."""
    end_log_prob = LEAST_END_LOG_PROB if result.end_log_prob is None else result.end_log_prob
    belief = hypothesis.belief if hypothesis.tokens else LEAST_BELIEF
    return TextEvidence(tokenizer.text(hypothesis.tokens).rstrip().endswith(SENTENCE_ENDS), end_log_prob, belief)


def end_bias(before: Sequence[Attempt]) -> float:
    """Return the end bias of the next attempt: the firm one after an attempt without text."""
    return END_BIAS if all(each.hypothesis.tokens for each in before) else FIRM_END_BIAS
