"""Audio of every kind gives sane text and no exception."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.harness.accuracy import normalise, word_error_rate
from benchmarks.harness.simulation import Simulation
from runtime.audio import SAMPLE_RATE
from server.settings import SessionLimits
from tests.conftest import Speech

if TYPE_CHECKING:
    from tests.engines import Opened

LIMITS = SessionLimits(interim_interval_ms=1000)
EXTREMES = np.array([-32_768, 32_767], np.int16)


@pytest.fixture(scope="module")
def clip(clips) -> Speech:
    """One that is understood word for word."""
    return next(each for each in clips if each.name == "15_rms")


def transcribe(engine: "Opened", audio: np.ndarray, **options: float) -> str:
    return Simulation(engine.engine, engine.tokenizer, LIMITS, **options).run(audio)


def gained(samples: np.ndarray, gain: float, offset: int = 0) -> np.ndarray:
    return np.clip(samples * gain + offset, -32_768, 32_767).astype(np.int16)


def sounding(samples: np.ndarray) -> np.ndarray:
    """From its first loud sample to its last."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 400)
    return samples[loud[0] : loud[-1] + 1]


SPOKEN = {
    "clipped": lambda samples: gained(samples, 5.0),
    "very quiet": lambda samples: gained(samples, 0.1),
    "shifted by a direct current": lambda samples: gained(samples, 0.7, 6000),
    "shifted almost to the rail": lambda samples: gained(samples, 0.2, -24_000),
    "beginning and ending in speech": sounding,
    "upside down": lambda samples: gained(samples, -1.0),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_speech_is_understood_however_it_was_recorded(fp32, clip, name):
    text = transcribe(fp32, SPOKEN[name](clip.samples))
    assert word_error_rate([clip.text], [text]) <= 20, f"{clip.text!r} became {text!r}"


SENSELESS = {
    "the extremes by turns": lambda: np.tile(EXTREMES, 2 * SAMPLE_RATE),
    "the lowest value": lambda: np.full(4 * SAMPLE_RATE, -32_768, np.int16),
    "the highest value": lambda: np.full(4 * SAMPLE_RATE, 32_767, np.int16),
    "a square wave": lambda: np.tile(np.repeat(EXTREMES, 50), 640),
    "full-scale noise": lambda: np.random.default_rng(0).integers(-32_768, 32_768, 4 * SAMPLE_RATE).astype(np.int16),
    "single clicks": lambda: np.where(np.arange(4 * SAMPLE_RATE) % 8000 == 0, 32_767, 0).astype(np.int16),
    "one sample": lambda: np.ones(1, np.int16),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_what_is_no_speech_at_full_scale_gives_no_words(fp32, name):
    assert transcribe(fp32, SENSELESS[name]()) == ""


def test_samples_that_come_one_by_one_or_all_at_once_are_the_same_audio(fp32, clip):
    """One sample a message, and five seconds a message in no time at all."""
    text = transcribe(fp32, clip.samples)
    one_by_one = transcribe(fp32, clip.samples, frame_ms=1000 / SAMPLE_RATE)
    at_once = transcribe(fp32, clip.samples, frame_ms=5000.0)
    assert normalise(one_by_one) == normalise(at_once) == normalise(text)
