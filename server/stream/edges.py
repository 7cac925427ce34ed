"""The quiet that is kept before and after what is said, in a segment whose text is final.

Moonshine repeats or mishears a short utterance that ends with its sound, and hears another word where its beginning lies
elsewhere. No edges are best for all; of several hypotheses the one that the model believes most is right most often. Beyond 4 s
a lead that is cut costs more than it gives, so it is left as it is unless the text is doubted. Chosen on librispeech_train and on
the even clips of an4, alphanum_accents, speechocean_l2, fsdd_digits and vctk.
"""

from runtime.audio import SAMPLE_RATE

TAIL_SAMPLES = SAMPLE_RATE * 400 // 1000  # behind the last sound; silence where the audio ends before
SHORT_SAMPLES = SAMPLE_RATE * 3500 // 1000  # from the first to the last sound
AS_IT_IS = None  # a lead that is not touched

Lead = int | None
"""Samples before the first sound; silence where the audio begins later."""

SHORT_LEADS: tuple[Lead, ...] = (SAMPLE_RATE * 100 // 1000, SAMPLE_RATE * 50 // 1000, SAMPLE_RATE * 200 // 1000)
LONG_LEADS: tuple[Lead, ...] = (AS_IT_IS, SAMPLE_RATE * 50 // 1000, SAMPLE_RATE * 200 // 1000)


def leads(sound_samples: int) -> tuple[Lead, ...]:
    """Those to try, in this order, until a text is believed. sound_samples: from the first sound to the last one's end."""
    return SHORT_LEADS if sound_samples < SHORT_SAMPLES else LONG_LEADS
