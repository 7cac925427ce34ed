"""Conversion of PCM16 to the encoder's input: floats in [-1, 1] with faint dither."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000  # Hz, mono
SAMPLES_PER_FRAME = 64 * 3 * 2  # strides of the three convolutions: 384 samples, 24 ms
MIN_SAMPLES = 127 + 64 * ((7 + 3 * 2) - 1)  # receptive field of one frame: 895 samples, 56 ms

DITHER_RMS = 0.001  # of full scale, -60 dB: the model takes digital zeros for speech; dither prevents that and changes no words
DITHER_PERIOD_SAMPLES = 65_537  # a prime near 4 s, so that it never lines up with anything periodic in the audio
DITHER = (np.random.default_rng(20_251).standard_normal(DITHER_PERIOD_SAMPLES) * DITHER_RMS).astype(np.float32)


STREAMING_FRAME_SAMPLES = 320  # one frame of a streaming model, 20 ms
STREAMING_MIN_SAMPLES = 80  # shortest audio that gives a frame

LEAST_OFFSET = 100  # of 32,768, -50 dB, after the gain: a smaller offset does no harm


@dataclass(frozen=True)
class Clip:
    """One clip of a stream, as the model receives it."""

    pcm: np.ndarray
    """int16 (samples,), 16 kHz mono, as it came; it must not change once it is in a clip."""
    position: int = 0
    """Index of the first sample within the stream: it decides the dither, so that repeats and drafts see the same audio."""
    ranges: tuple[tuple[int, int], ...] | None = None
    """Ranges that the model receives: for each, the positions in the stream of the first sample and of the one after the last.
    None: all of `pcm`, unchanged."""
    offset: int = 0
    """Value subtracted from every sample of the pieces."""
    gain: float = 1.0
    """Factor that then multiplies the samples."""
    quiet_before: int = 0
    """Samples of silence before the pieces."""
    quiet_behind: int = 0
    """Samples of silence after the pieces."""
    gains: tuple[float, ...] | None = None
    """Factor for each range, in place of `gain`, if a longer clip is to continue this one: past audio then keeps its loudness."""

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """int16 (samples,): the samples that the model receives."""
        if self.ranges is None:
            return self.pcm
        pieces = self.pieces
        if self.gains is not None:
            return self.samples_from(0)
        loud = amplified(np.concatenate(pieces) if len(pieces) > 1 else pieces[0], self.offset, self.gain)
        return np.pad(loud, (self.quiet_before, self.quiet_behind)) if self.quiet_before or self.quiet_behind else loud

    @property
    def pieces(self) -> list[np.ndarray]:
        """The samples as they came, without the silence around them, for an engine that amplifies them itself."""
        if self.ranges is None:
            return [self.pcm]
        return pieces_of(self.pcm, self.position, self.ranges)

    def samples_from(self, first: int) -> np.ndarray:
        """Return the samples from index `first` on, int16. For a clip with gains, only these are computed."""
        if self.ranges is None or self.gains is None:
            return self.samples[first:]
        parts, begin = [], 0
        for (left, right), gain in zip(self.ranges, self.gains, strict=True):
            skipped = max(0, first - begin)
            if skipped < right - left:
                parts.append(amplified(self.pcm[left + skipped - self.position : right - self.position], 0, gain))
            begin += right - left
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def continues(self, earlier: "Clip") -> bool:
        """True if this clip begins with all samples of `earlier`. Compares samples, so the streams may differ."""
        if self.gains is None or earlier.gains is None or not self.ranges or not earlier.ranges:
            count = earlier.sample_count
            same_dither = self.dither_position == earlier.dither_position
            return same_dither and np.array_equal(self.samples[:count], earlier.samples)
        last, samples = len(earlier.ranges) - 1, len(earlier.pcm)
        return (
            len(self.ranges) > last
            and self.position == earlier.position
            and self.gains[: last + 1] == earlier.gains
            and self.ranges[:last] == earlier.ranges[:last]
            and self.ranges[last][0] == earlier.ranges[last][0]
            and self.ranges[last][1] >= earlier.ranges[last][1]
            and np.array_equal(self.pcm[:samples], earlier.pcm)
        )

    def beginning(self, count: int) -> "Clip":
        """Return the first `count` samples, 1 or more, as a clip that this one continues."""
        if self.ranges is None:
            return dataclasses.replace(self, pcm=self.pcm[:count])
        kept, left = [], count - self.quiet_before
        for first, last in self.ranges:
            if left > 0:
                kept.append((first, min(last, first + left)))
                left -= last - first
        assert kept, "silence alone is no beginning"
        gains = None if self.gains is None else self.gains[: len(kept)]
        heard = self.pcm[: kept[-1][1] - self.position]
        return dataclasses.replace(self, pcm=heard, ranges=tuple(kept), gains=gains, quiet_behind=max(0, left))

    @property
    def dither_position(self) -> int:
        """Position in the stream of the clip's first sample; negative if the silence before it begins before the stream."""
        return (self.ranges[0][0] if self.ranges else self.position) - self.quiet_before

    @property
    def sample_count(self) -> int:
        """Number of samples, computed without creating them."""
        if self.ranges is None:
            return len(self.pcm)
        return sum(last - first for first, last in self.ranges) + self.quiet_before + self.quiet_behind

    @property
    def seconds(self) -> float:
        return self.sample_count / SAMPLE_RATE


def pieces_of(pcm: np.ndarray, position: int, ranges: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return a view of pcm for each range; pcm's first sample is at `position`."""
    return [pcm[first - position : last - position] for first, last in ranges]


def offset_of(total: int, count: int, gain: float) -> int:
    """Return the mean of `count` int16 samples with the sum `total` if it reaches LEAST_OFFSET after the gain; else 0."""
    mean = round(total / count) if count else 0
    return mean if abs(mean) * gain >= LEAST_OFFSET else 0


def amplified(samples: np.ndarray, offset: int, gain: float) -> np.ndarray:
    """Return int16 samples without the offset, `gain` times as loud. An offset makes Moonshine write words for silence and
    misrecognise real ones."""
    if not offset and gain == 1:
        return samples
    louder = samples - np.float32(offset)
    louder *= np.float32(gain)
    np.rint(louder, out=louder)
    np.clip(louder, -32_768, 32_767, out=louder)
    return louder.astype(np.int16)


def count_frames(samples: int) -> int:
    """Return the encoder frames of `samples` samples: the lengths of three convolutions without padding (127/64, 7/3, 3/2)."""
    first = (samples - 127) // 64 + 1
    second = (first - 7) // 3 + 1
    return max(0, (second - 3) // 2 + 1)


def to_float(clip: Clip, first: int = 0, least: int = MIN_SAMPLES) -> np.ndarray:
    """Return float32 (max(samples, least) - first,) in [-1, 1], dithered by position in the stream. A short clip ends with
    dither only.

    first: index of the first sample to return.
    """
    samples = clip.samples_from(first)
    audio = dither(clip.dither_position + first, max(len(samples), least - first))
    audio[: len(samples)] += samples * np.float32(1 / 32_768)
    return audio


def dither(position: int, length: int) -> np.ndarray:
    """Return float32 (length,): the stream's dither from sample `position` on, a fixed function of the position."""
    start = position % DITHER_PERIOD_SAMPLES
    periods = math.ceil((start + length) / DITHER_PERIOD_SAMPLES)
    return np.tile(DITHER, periods)[start : start + length]
