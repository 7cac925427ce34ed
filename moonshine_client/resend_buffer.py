"""The audio that the server may still need: from the end of the last closed segment to the newest sample."""

from collections.abc import Sequence

import numpy as np

SAMPLE_RATE = 16_000  # Hz
FRAME_MS = 20  # audio of one message, by default


class ResendBuffer:
    """PCM16 with interleaved channels. Positions are in bytes of the whole stream."""

    def __init__(self, channels: int = 1) -> None:
        self._channels = channels
        self._bytes_per_ms = SAMPLE_RATE * 2 * channels // 1000
        self._pcm = bytearray()
        self.start = 0
        """Position of the oldest byte that is held."""

    @property
    def end(self) -> int:
        return self.start + len(self._pcm)

    @property
    def seconds(self) -> float:
        return len(self._pcm) / self._bytes_per_ms / 1000

    @property
    def start_ms(self) -> int:
        return self.milliseconds(self.start)

    def milliseconds(self, position: int) -> int:
        return position // self._bytes_per_ms

    def append(self, pcm: bytes) -> None:
        self._pcm += pcm

    def forget_before(self, ms: int) -> None:
        """Drop closed audio, which is never needed again."""
        position = min(ms * self._bytes_per_ms, self.end)
        if position > self.start:
            del self._pcm[: position - self.start]
            self.start = position

    def silence(self, until_ms: Sequence[int]) -> None:
        """Clear each channel up to the end of its closed text, so that nothing of it is transcribed twice."""
        frames = len(self._pcm) // (2 * self._channels)
        samples = np.frombuffer(self._pcm, np.int16, frames * self._channels).reshape(-1, self._channels)
        for channel, closed_ms in enumerate(until_ms):
            samples[: max(0, closed_ms - self.start_ms) * SAMPLE_RATE // 1000, channel] = 0

    def read(self, position: int, most: int) -> bytes:
        """Read at most `most` bytes, from a position that is held."""
        first = position - self.start
        return bytes(self._pcm[first : first + most])
