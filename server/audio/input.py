"""Audio as clients send it, into what a stream hears: PCM16 mono at 16 kHz."""

import enum
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from runtime.audio import SAMPLE_RATE

if TYPE_CHECKING:
    import av

MIN_RATE, MAX_RATE = 8_000, 48_000
MAX_CHANNELS = 8


class SampleEncoding(enum.StrEnum):
    """Encoding of a sample."""

    PCM16 = "s16le"
    MULAW = "mulaw"
    ALAW = "alaw"
    PCM8 = "u8"
    PCM32 = "s32le"

    @property
    def sample_bytes(self) -> int:
        return {SampleEncoding.PCM16: 2, SampleEncoding.PCM32: 4}.get(self, 1)


@dataclass(frozen=True)
class AudioFormat:
    """Interleaved samples without a container."""

    encoding: SampleEncoding = SampleEncoding.PCM16
    rate: int = SAMPLE_RATE
    channels: int = 1

    def __post_init__(self) -> None:
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise ValueError(f"a rate of {self.rate} Hz; from {MIN_RATE} to {MAX_RATE} are taken")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"{self.channels} channels; from 1 to {MAX_CHANNELS} are taken")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.encoding.sample_bytes * self.channels


MONO_16_KHZ = AudioFormat()


class AudioInput:
    """Takes one stream's audio in pieces of any size; what does not fill a sample waits for the rest."""

    def __init__(self, audio_format: AudioFormat):
        self._format = audio_format
        self._needs_nothing = audio_format == MONO_16_KHZ
        self._left_over = b""
        self._resampler = None if audio_format.rate == SAMPLE_RATE else Resampler()

    def take(self, audio: bytes) -> bytes:
        """PCM16 mono at 16 kHz, of what is complete. A resampler holds back some milliseconds until finish()."""
        if self._needs_nothing and not self._left_over and len(audio) % 2 == 0:
            return audio
        audio = self._left_over + audio
        whole = len(audio) - len(audio) % self._format.frame_bytes
        self._left_over = audio[whole:]
        return self._resampled(mixed(self._decoded(audio[:whole]), self._format.channels))

    def finish(self) -> bytes:
        """Return what was held back. A sample that was never completed is left out."""
        return b"".join(self._resampler.finish()) if self._resampler else b""

    def _decoded(self, audio: bytes) -> np.ndarray:
        if self._format.encoding is SampleEncoding.PCM16:
            return np.frombuffer(audio, np.int16)
        if self._format.encoding is SampleEncoding.PCM32:
            return (np.frombuffer(audio, np.int32) >> 16).astype(np.int16)
        return TABLES[self._format.encoding][np.frombuffer(audio, np.uint8)]

    def _resampled(self, mono: np.ndarray) -> bytes:
        if self._resampler is None or not len(mono):
            return mono.tobytes()
        import av

        frame = av.AudioFrame.from_ndarray(mono.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._format.rate
        frame.time_base = Fraction(1, self._format.rate)
        return b"".join(self._resampler.take(frame))


class Resampler:
    """Frames of any kind into PCM16 mono at 16 kHz."""

    def __init__(self) -> None:
        import av  # only whoever resamples needs it, and it takes a while to load

        self._new_resampler = functools.partial(av.AudioResampler, format="s16", layout="mono", rate=SAMPLE_RATE)
        self._resampler = self._new_resampler()
        self._kind: tuple[int, str, str] | None = None  # of the frames: rate, layout, format

    def take(self, frame: "av.AudioFrame") -> Iterator[bytes]:
        """Frames may be of another kind than those before, as where recordings were joined."""
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._kind not in (None, kind):
            yield from self.finish()
            self._resampler = self._new_resampler()
        self._kind = kind
        yield from pcm_of(self._resampler.resample(frame))

    def finish(self) -> Iterator[bytes]:
        return pcm_of(self._resampler.resample(None))


def pcm_of(frames: "Iterable[av.AudioFrame]") -> Iterator[bytes]:
    return (frame.to_ndarray().astype(np.int16).tobytes() for frame in frames)


def mixed(samples: np.ndarray, channels: int) -> np.ndarray:
    """int16 (samples,): the mean of the channels."""
    if channels == 1:
        return samples
    return np.asarray(np.rint(samples.reshape(-1, channels).mean(axis=1)), np.int16)


def mulaw_table() -> np.ndarray:
    """int16 (256,) by code: ITU-T G.711, table 2a."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponents, mantissas = (codes >> 4 & 7).astype(int), (codes & 15).astype(int)
    magnitudes = ((2 * mantissas + 33) << exponents) - 33
    return np.array(np.where(codes & 128, -magnitudes, magnitudes) * 4, np.int16)


def alaw_table() -> np.ndarray:
    """int16 (256,) by code: ITU-T G.711, table 1a."""
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponents, mantissas = (codes >> 4 & 7).astype(int), (codes & 15).astype(int)
    magnitudes = np.where(exponents == 0, 2 * mantissas + 1, (2 * mantissas + 33) << np.maximum(0, exponents - 1))
    return np.array(np.where(codes & 128, magnitudes, -magnitudes) * 8, np.int16)


def pcm8_table() -> np.ndarray:
    """int16 (256,) by code."""
    return np.array((np.arange(256) - 128) * 256, np.int16)


TABLES = {SampleEncoding.MULAW: mulaw_table(), SampleEncoding.ALAW: alaw_table(), SampleEncoding.PCM8: pcm8_table()}
