"""The engine on ONNX Runtime, for streaming models: the encoder runs in steps, with the streams' state as input and output."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.engine.manifest import ENCODER_FILE, Manifest
from runtime.engine.onnx_engine import OnnxEngine, open_session, run_session
from runtime.engine.stream_engine import ContinuedClips, limits_of
from runtime.engine.stream_steps import SteppedEngine, Steps


class OnnxStreamEngine(SteppedEngine, OnnxEngine):
    """See runtime.engine.protocol.Engine."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        max_batch: int,
        threads: int | None = None,
        max_streams: int = 0,
        max_seconds: float | None = None,
    ):
        """max_batch: most rows decoded at a time. threads: most threads to use, by default all cores. max_streams: streams whose
        audio is kept, if more than max_batch. max_seconds: longest clip that will be requested.

        Raises EngineDirectoryError if ONNX Runtime cannot load the files.
        """
        threads = threads or os.cpu_count() or 1
        super().__init__(directory, manifest, limits_of(manifest, max_batch, max_streams, max_seconds), threads)
        self._encoder = open_session(directory / ENCODER_FILE, threads)
        (state,) = (each for each in self._encoder.get_inputs() if each.name == "state")
        self._state = np.zeros((self.limits.max_batch, state.shape[1]), np.float32)
        self._provisional = manifest.provisional_frames
        self._clips, self._steps = ContinuedClips(), Steps()

    def append(self, slots: Sequence[int], samples: Sequence[np.ndarray]) -> None:
        for rows, audio, counts in self._steps.of(slots, samples):
            self._step(rows, audio, counts)

    def _step(self, slots: Sequence[int], audio: np.ndarray, counts: np.ndarray) -> None:
        before = np.array([self._steps.frames(slot) for slot in slots])
        feed = {"audio": audio, "counts": counts, "before": before, "state": self._state[list(slots)]}
        cross_kv, state = run_session(self._encoder, feed)
        self._state[list(slots)] = state
        for row, (slot, count, held) in enumerate(zip(slots, counts.tolist(), before.tolist(), strict=True)):
            first = held - self._provisional
            self._keep(slot, max(0, first), cross_kv[:, :, row, :, max(0, -first) : self._provisional + count])
            self._steps.advance(slot, count)

    def close(self) -> None:
        super().close()
        del self._encoder
