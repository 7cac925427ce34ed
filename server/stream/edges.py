"""The quiet that is kept before and after the speech of a segment whose text is final.

Moonshine repeats or misrecognises a short utterance without quiet after its sound, and writes another word if the audio begins at
another point. No edges are best for all utterances. Of several hypotheses, the one with the highest mean log-probability is right
most often. Beyond 3.5 s, cutting the lead does more harm than good, so the lead is left as it is unless the text is doubted. The
values were chosen on librispeech_train and on the even clips of an4, alphanum_accents, speechocean_l2, fsdd_digits and vctk.
"""

from runtime.audio import SAMPLE_RATE

TAIL_SAMPLES = SAMPLE_RATE * 400 // 1000  # quiet after the last sound; silence if the audio ends earlier
SHORT_SAMPLES = SAMPLE_RATE * 3500 // 1000  # length from the first to the last sound; less is a short utterance
AS_IT_IS = None  # a lead that is not changed

Lead = int | None
"""Samples of quiet before the first sound; silence if the audio begins later."""

SHORT_LEADS: tuple[Lead, ...] = (SAMPLE_RATE * 100 // 1000, SAMPLE_RATE * 50 // 1000, SAMPLE_RATE * 200 // 1000)
LONG_LEADS: tuple[Lead, ...] = (AS_IT_IS, SAMPLE_RATE * 50 // 1000, SAMPLE_RATE * 200 // 1000)


def leads(sound_samples: int) -> tuple[Lead, ...]:
    """Return the leads to try, in this order, until a text is not doubted.

    sound_samples: length from the first sound to the end of the last one.
    """
    return SHORT_LEADS if sound_samples < SHORT_SAMPLES else LONG_LEADS
