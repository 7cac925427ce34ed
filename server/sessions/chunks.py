"""A recording in chunks that can be transcribed in parallel: cut at the quietest places, about every half minute."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtime.audio import SAMPLE_RATE

SHORTEST_SECONDS, LONGEST_SECONDS = 20.0, 40.0  # a cut is made between these
QUIET_SECONDS = 0.3
STEP_SAMPLES = SAMPLE_RATE // 100  # 10 ms: resolution of the search for the quietest place


@dataclass(frozen=True)
class Chunk:
    start: int
    """Position of its first sample in the recording."""
    pcm: bytes
    """PCM16 mono at 16 kHz."""
    is_last: bool = False


class Chunks:
    """Takes a recording in pieces of any size; holds no more of it than the chunk that is being filled."""

    def __init__(self) -> None:
        self._start = 0
        self._pcm = bytearray()

    def take(self, pcm: bytes) -> Iterator[Chunk]:
        """Yield the chunks that have become complete."""
        self._pcm += pcm
        while len(self._pcm) >= int(LONGEST_SECONDS * SAMPLE_RATE) * 2:
            yield self._cut(quietest(np.frombuffer(self._pcm[: len(self._pcm) // 2 * 2], np.int16)))

    def finish(self) -> Iterator[Chunk]:
        """Yield the last chunk, if anything is left."""
        if self._pcm:
            yield self._cut(len(self._pcm) // 2, is_last=True)

    def _cut(self, samples: int, is_last: bool = False) -> Chunk:
        chunk = Chunk(self._start, bytes(self._pcm[: samples * 2]), is_last)
        del self._pcm[: samples * 2]
        self._start += samples
        return chunk


def quietest(pcm: np.ndarray) -> int:
    """Return the middle of the quietest QUIET_SECONDS in the window; of equal places, the last."""
    first, last = (int(seconds * SAMPLE_RATE) for seconds in (SHORTEST_SECONDS, LONGEST_SECONDS))
    steps = pcm[first:last].reshape(-1, STEP_SAMPLES).astype(np.float64)
    power = np.convolve(steps.var(axis=1), np.ones(int(QUIET_SECONDS * 100)), mode="valid")
    place = len(power) - 1 - int(np.argmin(power[::-1]))
    return first + place * STEP_SAMPLES + int(QUIET_SECONDS * SAMPLE_RATE) // 2
