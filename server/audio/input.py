"""Conversion of the clients' audio into the PCM16 mono at 16 kHz that a stream receives."""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

from runtime.audio import SAMPLE_RATE

if TYPE_CHECKING:
    import av

MIN_RATE, MAX_RATE = 8_000, 48_000
MAX_CHANNELS = 8  # of a stream, and of a recording whose channels are transcribed separately
CANCELLED_SHARE = 0.01  # of the loudest channel's energy, -20 dB: in a mean with less, the channels have cancelled each other out


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
TELEPHONE_CODECS = {SampleEncoding.MULAW: "pcm_mulaw", SampleEncoding.ALAW: "pcm_alaw"}


class AudioInput:
    """Converts one session's audio in pieces of any size; an incomplete sample waits for the rest."""

    def __init__(self, audio_format: AudioFormat, is_split: bool = False):
        """Make an input. is_split: whether channels are kept separate; else they are mixed into one."""
        self._format = audio_format
        self.channels = audio_format.channels if is_split else 1
        """Number of channels of the output."""
        self._needs_nothing = audio_format == MONO_16_KHZ
        self._left_over = b""
        self._mixer = None if is_split else Mixer(audio_format.channels)
        self._resamplers = [] if audio_format.rate == SAMPLE_RATE else [Resampler() for _ in range(self.channels)]
        self._decoder = telephone_decoder(audio_format) if audio_format.encoding in TELEPHONE_CODECS else None

    def take(self, audio: bytes) -> list[bytes]:
        """Return PCM16 mono at 16 kHz for each channel, from all complete samples.

        A resampler holds back some milliseconds until finish().
        """
        if self._needs_nothing and not self._left_over and len(audio) % 2 == 0:
            return [audio]
        audio = self._left_over + audio
        whole = len(audio) - len(audio) % self._format.frame_bytes
        self._left_over = audio[whole:]
        return (
            [self._resampled(*each) for each in enumerate(self._split(self._decoded(audio[:whole])))] if whole else self._none()
        )

    def finish(self) -> list[bytes]:
        """Return what was held back, for each channel. An incomplete sample is left out."""
        return [b"".join(resampler.finish()) for resampler in self._resamplers] or self._none()

    def _none(self) -> list[bytes]:
        return [b""] * self.channels

    def _split(self, samples: np.ndarray) -> list[np.ndarray]:
        """samples: int16 (samples * channels,), interleaved. Returns int16 (samples,) for each channel of the output."""
        if self._mixer is not None:
            return [self._mixer.mix(samples)]
        return list(samples.reshape(-1, self._format.channels).T)

    def _decoded(self, audio: bytes) -> np.ndarray:
        """Return int16 (samples,) with all channels interleaved."""
        match self._format.encoding:
            case SampleEncoding.PCM16:
                return np.frombuffer(audio, np.int16)
            case SampleEncoding.PCM32:
                return (np.frombuffer(audio, np.int32) >> 16).astype(np.int16)
            case SampleEncoding.PCM8:
                return (np.frombuffer(audio, np.uint8).astype(np.int16) - 128) << 8
        import av

        assert self._decoder is not None, "it was made for this encoding"
        return np.concatenate([frame.to_ndarray().ravel() for frame in self._decoder.decode(av.Packet(audio))])

    def _resampled(self, channel: int, mono: np.ndarray) -> bytes:
        if not self._resamplers:
            return mono.tobytes()
        import av

        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._format.rate
        frame.time_base = Fraction(1, self._format.rate)
        return b"".join(self._resamplers[channel].take(frame))


def telephone_decoder(audio_format: AudioFormat) -> "av.AudioCodecContext":
    """Make a decoder of ITU-T G.711. It decodes samples one by one, so all interleaved channels pass through as one."""
    import av

    decoder = cast(av.AudioCodecContext, av.CodecContext.create(TELEPHONE_CODECS[audio_format.encoding], "r"))
    decoder.sample_rate, decoder.layout = audio_format.rate, "mono"
    return decoder


class Mixer:
    """Mixes channels into one, by their mean.

    Channels of opposite phase, as from a miswired cable, would cancel each other out: then the loudest one is taken. The decision
    for a sample depends on all samples so far, and not on how they are cut into pieces.
    """

    def __init__(self, channels: int):
        self._channels = channels
        self._energies = np.zeros(channels + 1)  # of each channel so far, and of their mean

    def mix(self, samples: np.ndarray) -> np.ndarray:
        """samples: int16 (samples * channels,), interleaved. Returns int16 (samples,)."""
        if self._channels == 1 or not len(samples):
            return samples
        channels = samples.reshape(-1, self._channels).astype(np.float64)
        mean = channels.mean(axis=1, keepdims=True)
        powers = np.concatenate((channels, mean), axis=1) ** 2
        powers[0] += self._energies
        energies = np.cumsum(powers, axis=0)
        self._energies = energies[-1]
        loudest = np.argmax(energies[:, :-1], axis=1)
        cancel_out = energies[:, -1] < CANCELLED_SHARE * np.take_along_axis(energies, loudest[:, None], axis=1)[:, 0]
        alone = np.take_along_axis(channels, loudest[:, None], axis=1)[:, 0]
        return np.rint(np.where(cancel_out, alone, mean[:, 0])).astype(np.int16)


class Resampler:
    """Converts frames of any kind into PCM16 mono at 16 kHz. Mixer mixes two channels, libswresample mixes more."""

    def __init__(self, channels: range | None = None) -> None:
        """channels: those to take, counted from 0, interleaved and not mixed; a channel that a frame does not have is silence."""
        self._taken = channels
        self._kind: tuple[int, str, str] | None = None  # of the frames: rate, layout, format

    def take(self, frame: "av.AudioFrame") -> Iterator[bytes]:
        """Yield the frame as PCM16. Frames may be of another kind than those before, as in joined recordings."""
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._kind != kind:
            yield from self.finish()
            self._begin(frame.layout)
        self._kind = kind
        yield from self._pcm_of(self._resampler.resample(frame))

    def finish(self) -> Iterator[bytes]:
        if self._kind is not None:
            yield from self._pcm_of(self._resampler.resample(None))
            self._kind = None

    def _begin(self, layout: "av.AudioLayout") -> None:
        import av  # only resampling needs it, and it takes a while to load

        self._channels = layout.nb_channels
        mixed = "stereo" if self._channels == 2 else "mono"
        wanted = mixed if self._taken is None else layout
        self._resampler = av.AudioResampler(format="s16", layout=wanted, rate=SAMPLE_RATE)
        self._mixer = Mixer(2 if self._channels == 2 else 1)

    def _pcm_of(self, frames: "Iterable[av.AudioFrame]") -> Iterator[bytes]:
        return (self._chosen(frame.to_ndarray().ravel().astype(np.int16)).tobytes() for frame in frames)

    def _chosen(self, samples: np.ndarray) -> np.ndarray:
        """samples: int16, interleaved. Returns int16 (samples,) of the mix, or (samples, channels) of those to take."""
        if self._taken is None:
            return self._mixer.mix(samples)
        channels = samples.reshape(-1, self._channels)
        missing = np.zeros((len(channels), max(0, self._taken.stop - self._channels)), np.int16)
        return np.hstack([channels, missing])[:, self._taken.start : self._taken.stop]
