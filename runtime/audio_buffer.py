"""The newest audio of a stream, read without copying it."""

import numpy as np

SAMPLE_BYTES = 2
FIRST_SAMPLES = 16_000  # initial capacity; it doubles when needed


class AudioBuffer:
    """A buffer of int16 samples, added at the end and dropped at the beginning.

    Arrays that were read stay valid: samples are never overwritten or moved. When the memory is full, the remaining samples are
    copied to larger memory.
    """

    def __init__(self) -> None:
        self._room = bytearray()
        self._first = self._last = 0  # byte offsets in the room: start of the first sample, end of the last

    def __len__(self) -> int:
        return (self._last - self._first) // SAMPLE_BYTES

    def append(self, pcm: bytes) -> None:
        """Add samples. pcm: PCM16 little-endian, whole samples."""
        last = self._last + len(pcm)
        if last > len(self._room):
            self._make_room(len(pcm))
            last = self._last + len(pcm)
        self._room[self._last : last] = pcm
        self._last = last

    def _make_room(self, more: int) -> None:
        held = self._room[self._first : self._last]
        free = more + max(FIRST_SAMPLES * SAMPLE_BYTES, len(held))
        self._room, self._first, self._last = held + bytes(free), 0, len(held)

    def drop(self, samples: int) -> None:
        """Drop this many samples at the beginning."""
        self._first += samples * SAMPLE_BYTES

    def read(self, first: int, last: int) -> np.ndarray:
        """Return the samples from index `first` up to `last`, int16 (samples,), read-only."""
        samples = np.frombuffer(self._room, np.int16, last - first, self._first + first * SAMPLE_BYTES)
        samples.flags.writeable = False
        return samples
