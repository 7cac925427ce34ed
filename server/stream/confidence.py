"""Confidence: whether a hypothesis is speech at all, and whether to doubt it. The evidence is the model's own confidence.

The thresholds were chosen on librispeech_train and on the even clips of the other sets of speech and of nonspeech.
"""

import bisect
import math
from collections.abc import Sequence

END_BIAS = 7.0
"""Value subtracted from the end token's logit at the first step. After quiet, the end token wins there although the right
first word is only 0.2 to 5.9 below it (measured on the evaluation clips after 2 to 8 s of quiet). Noise, tones and hum begin
3 to 13 below it: stock phrases ("Thank you for watching", notes) at 7.2 and more, which this bias keeps out, and lone fillers
("You", "O."), which is_speech() distinguishes from speech."""

FIRM_END_BIAS = 14.0
"""End bias for another attempt at a segment that has sound but an empty result: with accents and children, the first word is up
to 9 below the end token."""

MIN_MEAN_LOG_PROB = -1.5
"""Least mean over all tokens. Measured: speech has -0.44 or more; filler words invented for noise, tones and chords have -2.06 or
less."""

INVENTED_FIRST_LOG_PROB, INVENTED_MEAN_LOG_PROB = -3.3, -0.8
"""Limits for the first token and for the mean of all tokens. Text invented for music and cheering is below both ("Thank you for
watching": -3.9 and -1.0). Speech that can be written in many ways (telephone numbers: -6.8) also begins below the first, but its
mean is then -0.74 or more."""

SURE_TOKENS, SURE_LOG_PROB = 8, -0.6
"""A hypothesis is speech, regardless of its first token, if at least this many tokens follow with at least this mean."""

DOUBTED_LOG_PROB = -0.3
"""Mean below which a text is doubted, and its segment is transcribed again with other edges."""

WORDS_RIGHT = (
    (0.0, 0.3),
    (0.27, 0.472),
    (0.446, 0.509),
    (0.572, 0.744),
    (0.727, 0.865),
    (0.85, 0.879),
    (0.942, 0.92),
    (0.993, 0.985),
    (1.0, 0.985),
)
"""Probability of a word's least likely token, and the share of such words that are right: fitted on 1,433 words of the even clips
(benchmarks/word_confidence.py). Below the second point there are too few words for a finer fit."""

SIGNS = "♪♫¶©"  # signs of music and credits, which the model was trained to write where nobody speaks


def is_speech(log_probs: Sequence[float], text: str) -> bool:
    """True if the model is confident of its own words. Text without a letter or digit (a note sign, dots) is not speech."""
    if not any(map(str.isalnum, text)) or any(sign in text for sign in SIGNS):
        return False
    return mean(log_probs) >= MIN_MEAN_LOG_PROB and not is_invented(log_probs)


def is_invented(log_probs: Sequence[float]) -> bool:
    if log_probs[0] >= INVENTED_FIRST_LOG_PROB or mean(log_probs) >= INVENTED_MEAN_LOG_PROB:
        return False
    return len(log_probs) <= SURE_TOKENS or mean(log_probs[1:]) < SURE_LOG_PROB


def word_confidence(log_probs: Sequence[float]) -> float:
    """Return the probability, from 0 to 1, that a word with these tokens is right.

    It is interpolated linearly between the points of WORDS_RIGHT.
    """
    probability = math.exp(min(0.0, *log_probs))
    index = min(bisect.bisect_right(WORDS_RIGHT, (probability, math.inf)), len(WORDS_RIGHT) - 1)
    (left, low), (right, high) = WORDS_RIGHT[index - 1], WORDS_RIGHT[index]
    return round(low + (high - low) * (probability - left) / (right - left), 3)


def mean(log_probs: Sequence[float]) -> float:
    return sum(log_probs) / len(log_probs)
