"""The host's half of a streaming model's engine on a device: new audio is sent in steps, and the streams' state stays there."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from runtime.engine.device_engine import Device, DeviceEngine
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Limits
from runtime.engine.shapes import Shape, smallest
from runtime.engine.staging import request_layout
from runtime.engine.stream_engine import ContinuedClips, limits_of
from runtime.engine.stream_steps import SteppedEngine, Steps


class DeviceStreamEngine(SteppedEngine, DeviceEngine):
    """See runtime.engine.protocol.Engine."""

    def __init__(self, device: Device, manifest: Manifest, max_batch: int):
        super().__init__(device, manifest, max_batch)
        self._clips, self._steps = ContinuedClips(), Steps()

    def _limits_of(self, manifest: Manifest, max_batch: int) -> Limits:
        rows = min(max_batch, self._encoder_batches[-1])
        return dataclasses.replace(
            limits_of(manifest, max_batch, max_streams=0),
            encode_rows=rows,
            max_samples=self._device.max_samples,
            on_processor=False,
        )

    def append(self, slots: Sequence[int], samples: Sequence[np.ndarray]) -> None:
        most = self._encoder_batches[-1]
        for rows, audio, counts in self._steps.of(slots, samples):
            for first in range(0, len(rows), most):
                part = slice(first, first + most)
                self._step(rows[part], audio[part], counts[part])

    def _step(self, slots: Sequence[int], audio: np.ndarray, counts: np.ndarray) -> None:
        shape = Shape("stream encoder", smallest(self._encoder_batches, len(slots)), smallest(self._samples, audio.shape[1]))
        layout, place, rows = request_layout(shape), self._encode_ring.take(), len(slots)
        request = layout.views(place.memory)
        request["counts"][:rows], request["counts"][rows:] = counts, 0
        request["before"][:rows], request["before"][rows:] = [self._steps.frames(slot) for slot in slots], 0
        request["slots"][:rows], request["slots"][rows:] = slots, -1
        request["audio"][:] = 0
        request["audio"][:rows, : audio.shape[1]] = audio
        for slot, count in zip(slots, counts.tolist(), strict=True):
            self._steps.advance(slot, count)
            self._frames[slot] = self._steps.frames(slot)
        place.event = self._last = self._device.encode(shape, place.memory[: layout.bytes])
        self.bytes_in += layout.bytes
