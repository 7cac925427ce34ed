"""Is a hypothesis speech at all? The evidence is the model's own confidence."""

from collections.abc import Sequence

END_BIAS = 8.0
"""Subtracted from the end token's logit at the first step. Quiet before speech makes the end token win there although the
right first word follows it within 0.2 to 5.9 (measured on the evaluation clips behind 2 to 8 s of quiet); noise, tones
and hum begin 4.8 to 13 below it, and what is then invented for them is told by MIN_MEAN_LOG_PROB."""

MIN_MEAN_LOG_PROB = -2.0
"""Of all tokens. Measured: speech -0.44 and up, the filler words invented for noise, tones and chords -2.9 and down."""


def is_speech(log_probs: Sequence[float], text: str) -> bool:
    """Does the model believe its own words? Text without a letter or digit (a note sign, dots) is none either."""
    if not any(map(str.isalnum, text)):
        return False
    return sum(log_probs) / len(log_probs) >= MIN_MEAN_LOG_PROB
