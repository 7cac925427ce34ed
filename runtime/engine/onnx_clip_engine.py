"""The engine on ONNX Runtime, for models of clips: the default where there is no GPU.

Clips are encoded without padding, each on its own core and in parallel with the decoder, because a clip on two cores takes 0.7 of
one core's time, not half; only a clip that is alone gets all cores.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from runtime import audio
from runtime.audio import Clip
from runtime.engine.lanes import LaneEncoding, Lanes, limits_of, threads_beside_encode
from runtime.engine.manifest import DECODER_FILE, ENCODER_FILE, Manifest
from runtime.engine.onnx_engine import OnnxEngine, open_session, run_session
from runtime.engine.protocol import Cores, check_clip


class OnnxClipEngine(OnnxEngine):
    """See runtime.engine.protocol.Engine."""

    def __init__(self, directory: Path, manifest: Manifest, max_batch: int, threads: int | None = None):
        """threads: most threads, by default all cores. Raises EngineDirectoryError if ONNX Runtime cannot load the files."""
        threads = threads or os.cpu_count() or 1
        super().__init__(directory, manifest, limits_of(manifest, max_batch, threads), threads)
        self._encoder = open_session(directory / ENCODER_FILE, threads)
        self._lone_encoder = open_session(directory / ENCODER_FILE, 1) if threads > 1 else self._encoder
        beside = threads_beside_encode(threads)
        self._decoder_beside = open_session(directory / DECODER_FILE, beside) if threads > 1 else self._decoder
        self._lanes: Lanes[np.ndarray] = Lanes(threads, self._fill)

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        for slot, clip in zip(slots, clips, strict=True):
            self.begin_encode(slot, clip, Cores.ALL).finish()

    def begin_encode(self, slot: int, clip: Clip, cores: Cores) -> LaneEncoding[np.ndarray]:
        check_clip(self.limits, slot, clip)
        encoder = self._encoder if cores is Cores.ALL else self._lone_encoder
        return self._lanes.begin(slot, cores, lambda: encode_clip(encoder, clip))

    def _fill(self, slot: int, cross_kv: np.ndarray) -> None:
        self._frames[slot] = 0
        self._keep(slot, 0, cross_kv)

    @property
    def _session_to_decode(self) -> onnxruntime.InferenceSession:
        return self._decoder_beside if self._lanes.are_busy else self._decoder

    def free(self, slot: int) -> None:
        super().free(slot)
        self._lanes.forget(slot)

    def close(self) -> None:
        self._lanes.close()
        super().close()
        del self._encoder, self._lone_encoder, self._decoder_beside


def encode_clip(encoder: onnxruntime.InferenceSession, clip: Clip) -> np.ndarray:
    """Return the cross-attention keys and values, float (layers, 2, heads, frames, head_dim)."""
    samples = audio.to_float(clip)[None]
    cross_kv, _ = run_session(encoder, {"audio": samples, "lengths": np.array([samples.shape[1]])})
    return cross_kv[:, :, 0]
