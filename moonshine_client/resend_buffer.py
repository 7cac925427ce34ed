"""The audio that the server may still need: from the end of the last closed segment to the newest sample."""

SAMPLE_RATE = 16_000  # Hz, mono
BYTES_PER_MS = SAMPLE_RATE * 2 // 1000
FRAME_MS = 20  # what audio is sent in, where nothing else decides


class ResendBuffer:
    """PCM16. Positions are in bytes of the whole stream."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self.start = 0
        """Position of the oldest byte that is held."""

    @property
    def end(self) -> int:
        return self.start + len(self._pcm)

    @property
    def seconds(self) -> float:
        return len(self._pcm) / (2 * SAMPLE_RATE)

    def append(self, pcm: bytes) -> None:
        self._pcm += pcm

    def forget_before(self, ms: int) -> None:
        """Audio that is closed is never needed again."""
        position = min(ms * BYTES_PER_MS, self.end)
        if position > self.start:
            del self._pcm[: position - self.start]
            self.start = position

    def read(self, position: int, most: int) -> bytes:
        """Read at most so many bytes, from a position that is held."""
        first = position - self.start
        return bytes(self._pcm[first : first + most])
