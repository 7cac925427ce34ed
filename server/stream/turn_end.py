"""The probability in a pause that a turn is over: from its silence, the text before it, and the sound of the speech.

It is a logistic function of the evidence, fitted on the even clips of real recordings, both whole and cut within sentences. See
Ends of turns in docs/quality.md, and benchmarks/turn_ends.py for the fit.
"""

import math
from dataclasses import dataclass

LEAST_SILENCE_SECONDS = 0.2  # a shorter one is within a word, or between two
SURE = 0.95  # limit for the turn model's own probabilities: beyond it they are no further evidence
LEAST_BELIEF, LEAST_END_LOG_PROB = -2.0, -3.0  # limits for the text: lower values are no further evidence


SENTENCE_ENDS = (".", "?", "!")


@dataclass(frozen=True)
class TextEvidence:
    """Facts about the newest text, which covers the beginning of the pause."""

    ends_sentence: bool
    """True if it ends with a full stop, a question mark or an exclamation mark."""
    end_log_prob: float
    """Log probability that nothing follows."""
    belief: float
    """Mean log probability of its tokens: a phrase that is cut off is written with less certainty."""


@dataclass(frozen=True)
class PauseEvidence:
    """Evidence about a pause, in addition to its silence."""

    text: TextEvidence | None = None
    sound: float | None = None
    """Probability of the turn model that the speaker has finished."""


NO_EVIDENCE = PauseEvidence()


@dataclass(frozen=True)
class Weights:
    """Weights of the evidence in the log-odds."""

    constant: float
    per_second: float
    """Weight of each second of silence."""
    evidence: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Weights of the values that features() returns."""


SILENCE = Weights(-1.417, 4.074)
TEXT = Weights(0.148, 4.187, (-1.501, 1.561, 1.363, 0.0))
SOUND = Weights(-1.782, 4.058, (0.0, 0.0, 0.0, 0.342))
TEXT_AND_SOUND = Weights(-0.341, 4.206, (-1.391, 1.215, 1.334, 0.329))


def weights_for(evidence: PauseEvidence) -> Weights:
    """Return the weights that were fitted for the kinds of evidence that are present."""
    if evidence.text is None:
        return SILENCE if evidence.sound is None else SOUND
    return TEXT if evidence.sound is None else TEXT_AND_SOUND


def features(evidence: PauseEvidence) -> tuple[float, float, float, float]:
    """Return whether a sentence ends, the end token's log probability, the text's belief, and the sound's log-odds."""
    text, sound = evidence.text, evidence.sound
    return (
        0.0 if text is None else float(text.ends_sentence),
        0.0 if text is None else max(text.end_log_prob, LEAST_END_LOG_PROB),
        0.0 if text is None else max(text.belief, LEAST_BELIEF),
        0.0 if sound is None else log_odds(min(max(sound, 1 - SURE), SURE)),
    )


def probability_of_end(silence_seconds: float, evidence: PauseEvidence = NO_EVIDENCE) -> float:
    """Return the probability, from 0 to 1, that the turn is over after this much silence."""
    weights = weights_for(evidence)
    weighed = sum(weight * value for weight, value in zip(weights.evidence, features(evidence), strict=True))
    return 1 / (1 + math.exp(-(weights.constant + weights.per_second * silence_seconds + weighed)))


def log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
