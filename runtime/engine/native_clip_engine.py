"""The engine compiled for this processor, for models of clips. Each clip is encoded on its own core.

Owns the encoder output of its slots, in host memory that is allocated again for every clip.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime import audio
from runtime.audio import Clip
from runtime.engine.lanes import LaneEncoding, Lanes, limits_of, threads_beside_encode
from runtime.engine.manifest import Manifest
from runtime.engine.native_engine import NativeEngine
from runtime.engine.native_library import CrossAttention, Team
from runtime.engine.protocol import Cores, check_clip


@dataclass(frozen=True)
class SlotContents:
    """Encoder output that a slot keeps of its clip."""

    cross: np.ndarray
    attention: CrossAttention
    """The same memory, described for the library."""


class NativeClipEngine(NativeEngine):
    """See runtime.engine.protocol.Engine."""

    def __init__(self, directory: Path, library: str, manifest: Manifest, max_batch: int, threads: int | None = None):
        """library: one of the manifest's libraries. threads: most threads to use, by default all cores.

        Raises EngineDirectoryError if the library or its weights cannot be used.
        """
        threads = threads or os.cpu_count() or 1
        super().__init__(directory, library, manifest, limits_of(manifest, max_batch, threads))
        sizes = (threads, 1, threads, threads_beside_encode(threads))
        self._all, self._lone, self._decoding, self._decoding_beside = map(self._model.team, sizes)
        self._lanes: Lanes[SlotContents] = Lanes(threads, self._fill)
        self._contents: dict[int, SlotContents] = {}  # by slot; free slots have none

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        for slot, clip in zip(slots, clips, strict=True):
            self.begin_encode(slot, clip, Cores.ALL).finish()

    def begin_encode(self, slot: int, clip: Clip, cores: Cores) -> LaneEncoding[SlotContents]:
        check_clip(self.limits, slot, clip)
        team = self._all if cores is Cores.ALL else self._lone
        return self._lanes.begin(slot, cores, lambda: self._encode_on_lane(team, clip))

    def _encode_on_lane(self, team: Team, clip: Clip) -> SlotContents:
        """Encode a clip. Runs on a lane's thread."""
        samples = audio.to_float(clip)
        frames = audio.count_frames(len(samples))
        positions = self._model.whole_blocks(frames)
        cross = np.zeros(self._heads * self._model.kept_size(positions), self._model.kept_dtype)
        self._model.encode(team, samples, cross, positions)
        return SlotContents(cross, CrossAttention(cross.ctypes.data, positions, frames))

    def _fill(self, slot: int, contents: SlotContents) -> None:
        self._contents[slot], self._cross[slot] = contents, contents.attention

    @property
    def _team_to_decode(self) -> Team:
        return self._decoding_beside if self._lanes.are_busy else self._decoding

    def free(self, slot: int) -> None:
        super().free(slot)
        self._contents.pop(slot, None)
        self._lanes.forget(slot)

    def clear(self, slot: int) -> None:
        super().clear(slot)
        if contents := self._contents.get(slot):
            contents.cross[:] = 0

    def close(self) -> None:
        self._lanes.close()
        for team in (self._all, self._lone, self._decoding, self._decoding_beside):
            team.close()
        super().close()
