"""Is a hypothesis speech at all? The evidence is the model's own confidence."""

from collections.abc import Sequence

END_BIAS = 7.0
"""Subtracted from the end token's logit at the first step. Quiet before speech makes the end token win there although the
right first word follows it within 0.2 to 5.9 (measured on the evaluation clips behind 2 to 8 s of quiet). Noise, tones
and hum begin 3 to 13 below it: the stock phrases ("Thank you for watching", notes) at 7.2 and more, which this keeps out,
and lone fillers ("You", "O.") that MIN_MEAN_LOG_PROB tells from speech."""

MIN_MEAN_LOG_PROB = -1.5
"""Of all tokens. Measured: speech -0.44 and up, the filler words invented for noise, tones and chords -2.06 and down."""


def is_speech(log_probs: Sequence[float], text: str) -> bool:
    """Does the model believe its own words? Text without a letter or digit (a note sign, dots) is none either."""
    if not any(map(str.isalnum, text)):
        return False
    return sum(log_probs) / len(log_probs) >= MIN_MEAN_LOG_PROB
