"""The engine compiled for this processor, for streaming models. One call encodes new audio of many streams, each frame once.

A slot's stream keeps the state of the encoder and the keys and values of its audio, in the library's memory.
"""

import os
from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from pathlib import Path

import numpy as np

from runtime.audio import STREAMING_FRAME_SAMPLES
from runtime.engine.manifest import Manifest
from runtime.engine.native_engine import NativeEngine
from runtime.engine.native_library import Team
from runtime.engine.stream_engine import ContinuedClips, StreamEngine, limits_of

MOST_SAMPLES_TOGETHER = 2048 * STREAMING_FRAME_SAMPLES
"""Audio of one call, of all streams together: its intermediate results take memory, and should stay in the cores' caches."""


class NativeStreamEngine(StreamEngine, NativeEngine):
    """See runtime.engine.protocol.Engine."""

    def __init__(
        self,
        directory: Path,
        library: str,
        manifest: Manifest,
        max_batch: int,
        threads: int | None = None,
        max_streams: int = 0,
        max_seconds: float | None = None,
    ):
        """library: one of the manifest's libraries. max_batch: most rows decoded at a time. threads: most threads to use, by
        default all cores. max_streams: streams whose audio is kept, if more than max_batch. max_seconds: longest clip that will
        be requested.

        Raises EngineDirectoryError if the library or its weights cannot be used.
        """
        super().__init__(directory, library, manifest, limits_of(manifest, max_batch, max_streams, max_seconds))
        self._team = self._model.team(threads or os.cpu_count() or 1)
        self._streams: dict[int, c_void_p] = {}  # by slot
        self._clips = ContinuedClips()

    def append(self, slots: Sequence[int], samples: Sequence[np.ndarray]) -> None:
        most = max(STREAMING_FRAME_SAMPLES, MOST_SAMPLES_TOGETHER // len(slots))
        for first in range(0, max(map(len, samples)), most):
            parts = {slot: new[first : first + most] for slot, new in zip(slots, samples, strict=True) if len(new) > first}
            self._append_together(parts)

    def _append_together(self, parts: Mapping[int, np.ndarray]) -> None:
        streams, counts = [self._streams[slot] for slot in parts], np.array(list(map(len, parts.values())), np.int32)
        cross = self._model.append(self._team, streams, np.concatenate(list(parts.values())), counts)
        self._cross |= dict(zip(parts, cross, strict=True))

    def reset(self, slot: int) -> None:
        super().reset(slot)
        self._streams[slot] = self._model.open_stream()

    @property
    def _team_to_decode(self) -> Team:
        return self._team

    def free(self, slot: int) -> None:
        super().free(slot)
        if stream := self._streams.pop(slot, None):
            self._model.close_stream(stream)

    def close(self) -> None:
        for slot in list(self._streams):
            self.free(slot)
        self._team.close()
        super().close()
