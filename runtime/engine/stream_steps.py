"""Audio of streams in steps of whole frames, for an encoder that is one step with state in and out (see streaming_model.py)."""

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.audio import STREAMING_FRAME_SAMPLES as FRAME
from runtime.audio import STREAMING_MIN_SAMPLES
from runtime.engine.shapes import STEP_FRAMES
from runtime.engine.stream_engine import StreamEngine

MOST_FRAMES = STEP_FRAMES[-1]  # of a row in one step: scores of all frames by all keys are computed
PADDING = FRAME - STREAMING_MIN_SAMPLES  # zeros before a stream's audio, so that its first frame is whole with its first samples


class SteppedEngine(StreamEngine):
    """An engine of a streaming model whose encoder is such a step."""

    _steps: "Steps"

    def free(self, slot: int) -> None:
        super().free(slot)
        self._steps.forget(slot)


class Steps:
    """Keeps what is left of each slot's audio after its last whole frame, and counts its frames."""

    def __init__(self) -> None:
        self._left: dict[int, np.ndarray] = {}
        self._frames: dict[int, int] = {}

    def frames(self, slot: int) -> int:
        """Frames that the slot's stream has."""
        return self._frames.get(slot, 0)

    def advance(self, slot: int, frames: int) -> None:
        """The stream has so many frames more."""
        self._frames[slot] = self.frames(slot) + frames

    def forget(self, slot: int) -> None:
        self._left.pop(slot, None)
        self._frames.pop(slot, None)

    def of(self, slots: Sequence[int], samples: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yield for each step its slots, their audio float32 (slots, samples), filled up with zeros, and their frames int64.

        Rows with more than MOST_FRAMES take several steps. What is no whole frame is kept for the next call.
        """
        whole = {slot: self._whole_frames(slot, new) for slot, new in zip(slots, samples, strict=True)}
        for first in range(0, max(map(len, whole.values())), MOST_FRAMES):
            parts = {slot: frames[first : first + MOST_FRAMES] for slot, frames in whole.items() if len(frames) > first}
            counts = np.array(list(map(len, parts.values())))
            audio = np.zeros((len(parts), int(counts.max()), FRAME), np.float32)
            for row, part in zip(audio, parts.values(), strict=True):
                row[: len(part)] = part
            yield list(parts), audio.reshape(len(parts), -1), counts

    def _whole_frames(self, slot: int, samples: np.ndarray) -> np.ndarray:
        """Return float32 (frames, FRAME), with what was left before them, and keep what is left after them."""
        audio = np.concatenate((self._left.get(slot, np.zeros(PADDING, np.float32)), samples))
        count = len(audio) // FRAME * FRAME
        self._left[slot] = audio[count:]
        return audio[:count].reshape(-1, FRAME)
