"""A segment that grew too long ends after its last word: no word is lost where other sound follows speech at once."""

import numpy as np
import pytest

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.harness.simulation import Simulation
from runtime.audio import SAMPLE_RATE
from tests.conftest import Speech

SPOKEN_UNTIL = 9.96  # seconds of the recording; its last word ends at 9.72
NOTE_SECONDS, NOTES = 0.22, 36


def melody(seed: int) -> np.ndarray:
    """Notes without a rest between them, int16."""
    random, seconds = np.random.default_rng(seed), np.arange(int(NOTE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = 220 * 2 ** (random.integers(0, 24, NOTES) / 12)
    notes = [sum(np.sin(2 * np.pi * part * pitch * seconds) / part for part in (1, 2, 3)) for pitch in pitches]
    return np.concatenate([note * np.exp(-3 * seconds) * 4000 for note in notes]).astype(np.int16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_word_before_music_that_follows_at_once_is_kept(int8, recordings: dict[str, Speech], seed):
    """The cut by length fell into the last word: no boundary of two words lay in the window where a cut is looked for."""
    speech = recordings["short"]
    audio = np.concatenate([speech.samples[: int(SPOKEN_UNTIL * SAMPLE_RATE)], melody(seed)])
    text = Simulation(int8.engine, int8.tokenizer, words=True, frame_ms=100).run(audio)
    assert word_error_rate([speech.text], [text]) <= 10
