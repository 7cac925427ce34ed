"""PCM16 into what the encoder takes: floats in [-1, 1] with faint dither."""

import math
from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000  # Hz, mono
SAMPLES_PER_FRAME = 64 * 3 * 2  # strides of the three convolutions: 384 samples, 24 ms
MIN_SAMPLES = 127 + 64 * ((7 + 3 * 2) - 1)  # receptive field of one frame: 895 samples, 56 ms

DITHER_RMS = 0.001  # of full scale, -60 dB: digital zeros no longer look like speech to the model, words are not touched
DITHER_PERIOD_SAMPLES = 65_537  # a prime near 4 s, so that it never lines up with anything periodic in the audio
DITHER = (np.random.default_rng(20_251).standard_normal(DITHER_PERIOD_SAMPLES) * DITHER_RMS).astype(np.float32)


@dataclass(frozen=True)
class Clip:
    """A stretch of one stream's audio."""

    samples: np.ndarray
    """int16 (samples,), 16 kHz mono; not written to by anyone once it is in a clip."""
    position: int = 0
    """Index of the first sample within the stream: it decides the dither, so that repeats and drafts see the same audio."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def count_frames(samples: int) -> int:
    """Encoder frames of `samples` samples: the lengths of three convolutions without padding (127/64, 7/3, 3/2)."""
    first = (samples - 127) // 64 + 1
    second = (first - 7) // 3 + 1
    return max(0, (second - 3) // 2 + 1)


def to_float(clip: Clip) -> np.ndarray:
    """float32 (max(samples, MIN_SAMPLES),) in [-1, 1], dithered by position in the stream; short clips end in dither alone."""
    length = max(len(clip.samples), MIN_SAMPLES)
    audio = dither(clip.position, length)
    audio[: len(clip.samples)] += clip.samples * np.float32(1 / 32_768)
    return audio


def dither(position: int, length: int) -> np.ndarray:
    """float32 (length,): the stream's dither from sample `position` on, a fixed function of the position."""
    start = position % DITHER_PERIOD_SAMPLES
    periods = math.ceil((start + length) / DITHER_PERIOD_SAMPLES)
    return np.tile(DITHER, periods)[start : start + length]
