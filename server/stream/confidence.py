"""Confidence: whether a hypothesis is speech at all, and whether to doubt it. The evidence is the model's own confidence.

The thresholds were chosen on librispeech_train and on the even clips of the other sets of speech and of nonspeech.
"""

import bisect
import math
from collections.abc import Sequence

END_BIAS = 7.0
"""Subtracted from the end token's logit at the first step. Quiet before speech makes the end token win there although the
right first word follows it within 0.2 to 5.9 (measured on the evaluation clips behind 2 to 8 s of quiet). Noise, tones
and hum begin 3 to 13 below it: the stock phrases ("Thank you for watching", notes) at 7.2 and more, which this keeps out,
and lone fillers ("You", "O.") that is_speech() tells from speech."""

FIRM_END_BIAS = 14.0
"""End bias for a segment with sound that came out empty: accents and children begin up to 9 below the end token."""

MIN_MEAN_LOG_PROB = -1.5
"""Least mean over all tokens. Measured: speech -0.44 and up, filler words invented for noise, tones and chords -2.06 and down."""

INVENTED_FIRST_LOG_PROB, INVENTED_MEAN_LOG_PROB = -3.3, -0.8
"""Music and cheering begin below the first and stay below the second ("Thank you for watching": -3.9 and -1.0). Speech begins
there too where it could be written in many ways (telephone numbers: -6.8), and is then sure of itself: -0.74 and up."""

SURE_TOKENS, SURE_LOG_PROB = 8, -0.6
"""Number and belief of tokens after the first that make a hypothesis speech, however it began."""

DOUBTED_LOG_PROB = -0.3
"""A text that is believed less, as a whole, is asked for once more with other edges."""

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
(benchmarks/word_confidence.py). Below the second point are too few words to tell more than the first says."""

SIGNS = "♪♫¶©"  # of music and credits: what the model was taught to say where nobody speaks


def is_speech(log_probs: Sequence[float], text: str) -> bool:
    """True if the model believes its own words. Text without a letter or digit (a note sign, dots) is no speech either."""
    if not any(map(str.isalnum, text)) or any(sign in text for sign in SIGNS):
        return False
    return mean(log_probs) >= MIN_MEAN_LOG_PROB and not is_invented(log_probs)


def is_invented(log_probs: Sequence[float]) -> bool:
    if log_probs[0] >= INVENTED_FIRST_LOG_PROB or mean(log_probs) >= INVENTED_MEAN_LOG_PROB:
        return False
    return len(log_probs) <= SURE_TOKENS or mean(log_probs[1:]) < SURE_LOG_PROB


def word_confidence(log_probs: Sequence[float]) -> float:
    """Return the probability, from 0 to 1, that a word with these tokens is right: straight between the points of WORDS_RIGHT."""
    probability = math.exp(min(0.0, *log_probs))
    index = min(bisect.bisect_right(WORDS_RIGHT, (probability, math.inf)), len(WORDS_RIGHT) - 1)
    (left, low), (right, high) = WORDS_RIGHT[index - 1], WORDS_RIGHT[index]
    return round(low + (high - low) * (probability - left) / (right - left), 3)


def mean(log_probs: Sequence[float]) -> float:
    return sum(log_probs) / len(log_probs)
