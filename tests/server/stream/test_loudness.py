"""What is sound and how much louder it is to be heard: the same words from any level, and no speech taken for background."""

import numpy as np
import pytest

from benchmarks.harness.accuracy import normalise_as_spoken, word_error_rate
from benchmarks.harness.simulation import Simulation
from server.settings import SessionLimits
from server.stream.loudness import HEARD_DB, LEVELS_PER_SECOND, Loudness, levels_of
from tests.server.stream.test_segmenter import quiet, speech

LEVELS_DB = (-50, -40, -30, -20, -12, -6)  # of the loudest 20 ms; the whole of a clip is 10 dB below
LIMITS = SessionLimits(interim_interval_ms=5000)  # fewer updates: a quarter of the time

WORD_FOR_WORD = ("07_rms", "09_rms", "14_slt", "15_rms", "16_slt", "18_slt")  # what is said in these is understood


def take(loudness: Loudness, samples: np.ndarray) -> list[bool]:
    whole = samples[: len(samples) // 320 * 320]
    return [loudness.is_sound(level) for level in levels_of(whole)]


def at(peak_db: float, samples: np.ndarray) -> np.ndarray:
    """Its loudest 20 ms at so many dB of full scale."""
    whole = samples[: len(samples) // 320 * 320]
    gain = 10 ** ((peak_db - max(levels_of(whole))) / 20)
    return np.clip(np.rint(samples * gain), -32_768, 32_767).astype(np.int16)


@pytest.mark.parametrize("level_db", [-60, -40, -25])
def test_a_quiet_speaker_is_raised_to_the_common_loudness(level_db):
    loudness = Loudness()
    take(loudness, at(level_db, speech(3.0)))
    assert HEARD_DB - 8 <= level_db + loudness.gain_db <= HEARD_DB + 8


def test_a_loud_speaker_is_not_made_quieter():
    loudness = Loudness()
    take(loudness, at(-6, speech(3.0)))
    assert loudness.gain_db == 0.0


def test_the_gain_does_not_move_with_the_pauses():
    loudness, gains = Loudness(), set()
    take(loudness, at(-45, speech(4.0)))
    for _ in range(4):
        take(loudness, at(-75, quiet(1.5)))
        take(loudness, at(-45, speech(1.5)))
        gains.add(loudness.gain_db)
    assert len(gains) == 1


def test_noise_alone_is_not_raised_for_ever():
    loudness = Loudness()
    is_sound = take(loudness, quiet(10.0, rms=0.002))
    assert not any(is_sound[3 * LEVELS_PER_SECOND :])


def test_a_vowel_that_is_held_for_half_a_second_is_no_background():
    loudness = Loudness()
    take(loudness, speech(2.0))
    held = np.full(LEVELS_PER_SECOND // 2, -22.0)
    assert all(loudness.is_sound(level) for level in held.tolist())


def test_levels_from_faint_to_loud_give_the_same_words(fp32, clips):
    """One word in fifty may differ: an inaudible change is enough for a doubted one."""
    chosen = [clip for clip in clips if clip.name in WORD_FOR_WORD]
    texts = {
        level_db: [Simulation(fp32.engine, fp32.tokenizer, LIMITS).run(at(level_db, clip.samples)) for clip in chosen]
        for level_db in LEVELS_DB
    }
    usual = texts[-20]
    for level_db, heard in texts.items():
        changed = word_error_rate(list(map(normalise_as_spoken, usual)), list(map(normalise_as_spoken, heard)))
        assert changed <= 2.0, f"{level_db} dB: {changed:.1f}%"
