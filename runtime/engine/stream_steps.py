"""Audio of streams in steps of whole frames, for an encoder that takes and returns its state (see streaming_model.py)."""

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.audio import STREAMING_FRAME_SAMPLES as FRAME
from runtime.audio import STREAMING_MIN_SAMPLES
from runtime.engine.shapes import STEP_FRAMES
from runtime.engine.stream_engine import StreamEngine

MOST_FRAMES = STEP_FRAMES[-1]  # of a row in one step, because scores of all frames with all keys are computed
PADDING = FRAME - STREAMING_MIN_SAMPLES  # zeros before a stream's audio, so that STREAMING_MIN_SAMPLES complete its first frame


class SteppedEngine(StreamEngine):
    """An engine of a streaming model whose encoder works in such steps."""

    _steps: "Steps"

    def free(self, slot: int) -> None:
        super().free(slot)
        self._steps.forget(slot)


class Steps:
    """Keeps the rest of each slot's audio after its last whole frame, and counts its frames."""

    def __init__(self) -> None:
        self._left: dict[int, np.ndarray] = {}
        self._frames: dict[int, int] = {}

    def frames(self, slot: int) -> int:
        """Return the number of frames of the slot's stream."""
        return self._frames.get(slot, 0)

    def advance(self, slot: int, frames: int) -> None:
        """Count this many more frames of the stream."""
        self._frames[slot] = self.frames(slot) + frames

    def forget(self, slot: int) -> None:
        self._left.pop(slot, None)
        self._frames.pop(slot, None)

    def of(self, slots: Sequence[int], samples: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yield for each step its slots, their audio float32 (slots, samples), padded with zeros, and their frame counts int64.

        Rows with more than MOST_FRAMES take several steps. An incomplete frame is kept for the next call.
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
        """Return the kept rest and the new samples as float32 (frames, FRAME), and keep the new rest."""
        audio = np.concatenate((self._left.get(slot, np.zeros(PADDING, np.float32)), samples))
        count = len(audio) // FRAME * FRAME
        self._left[slot] = audio[count:]
        return audio[:count].reshape(-1, FRAME)
