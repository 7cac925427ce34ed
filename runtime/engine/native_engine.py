"""The engine that is compiled for this processor. Clips have a core each; the rows of a pass are packed, so none is padded.

Owns what its slots keep, in host memory: what each hears of its clip, made anew for every clip, and its own positions.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime import audio
from runtime.audio import Clip
from runtime.engine.lanes import LaneEncoding, Lanes, limits_of, threads_beside_encode
from runtime.engine.manifest import NATIVE_WEIGHTS, Manifest
from runtime.engine.native_library import NativeModel, Team
from runtime.engine.protocol import (
    CONTINUED,
    Answered,
    Cores,
    Engine,
    Pending,
    Prediction,
    Row,
    check_alignment,
    check_clip,
    check_row,
)
from runtime.exceptions import EngineDirectoryError


@dataclass(frozen=True)
class SlotContents:
    """Encoder output that a slot keeps of its clip."""

    cross: np.ndarray
    frames: int


class NativeEngine(Engine):
    """See runtime.engine.Engine."""

    def __init__(self, directory: Path, library: str, manifest: Manifest, max_batch: int, threads: int | None = None):
        """library: one of the manifest's. threads: at most; all cores.

        Raises EngineDirectoryError where the library or its weights cannot be used.
        """
        threads = threads or os.cpu_count() or 1
        beside = threads_beside_encode(threads)
        self.name = f"{manifest.target} {manifest.precision}"
        self.limits = limits_of(manifest, max_batch, threads)
        try:
            weights = dict(np.load(directory / NATIVE_WEIGHTS))
        except (OSError, ValueError) as exc:
            raise EngineDirectoryError(f"{directory / NATIVE_WEIGHTS} cannot be read: {exc}") from exc
        self._alignment_heads, self._predicts = weights.pop("alignment_heads"), bool(weights.pop("alignment_predicts"))
        self._model = NativeModel(directory / library, shape_of(manifest, weights), weights)
        self._heads = manifest.decoder_layers * manifest.heads
        self._all, self._lone, self._decoding, self._decoding_beside = map(self._model.team, (threads, 1, threads, beside))
        self._lanes: Lanes[SlotContents] = Lanes(threads, self._fill)
        self._own_positions = self._model.whole_blocks(manifest.max_positions)
        own_size = self._heads * self._model.kept_size(self._own_positions)
        self._own = np.zeros((max_batch, own_size), self._model.kept_dtype)
        self._own_to_align = np.zeros(own_size, self._model.kept_dtype)
        self._contents: dict[int, SlotContents] = {}  # by slot; those that are free have none
        self._last_tokens = np.zeros(max_batch, np.int64)  # predicted by each slot's last pass, at its end

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
        return SlotContents(cross, frames)

    def _fill(self, slot: int, contents: SlotContents) -> None:
        self._contents[slot] = contents

    def launch(self, rows: Sequence[Row]) -> Pending[Prediction]:
        for row in rows:
            check_row(self.limits, row, row.slot in self._contents)
        fed = [(self._last_tokens[row.slot],) if row.tokens == (CONTINUED,) else row.tokens for row in rows]
        contents = [self._contents[row.slot] for row in rows]
        tokens, log_probs = self._model.decode(
            self._team_to_decode,
            np.array([token for each in fed for token in each], np.int64),
            np.array([len(each) for each in fed], np.int32),
            np.array([row.past_length for row in rows], np.int32),
            np.array([each.frames for each in contents], np.int32),
            np.array([row.end_bias for row in rows], np.float32),
            [self._own[row.slot].ctypes.data for row in rows],
            [each.cross.ctypes.data for each in contents],
            self._own_positions,
        )
        ends = list(itertools.accumulate(map(len, fed)))
        for row, end in zip(rows, ends, strict=True):
            self._last_tokens[row.slot] = tokens[end - 1]
        return Answered([Prediction(tokens[begin:end], log_probs[begin:end]) for begin, end in itertools.pairwise([0, *ends])])

    @property
    def _team_to_decode(self) -> Team:
        return self._decoding_beside if self._lanes.are_busy else self._decoding

    def align(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Pending[np.ndarray]:
        for slot, said in zip(slots, tokens, strict=True):
            check_alignment(self.limits, slot, said, slot in self._contents)
        return Answered(list(map(self._align, slots, tokens)))

    def _align(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        fed, contents = np.array([self.limits.start_token, *tokens], np.int64), self._contents[slot]
        shares = self._model.align(
            self._team_to_decode,
            fed,
            contents.frames,
            self._own_to_align.ctypes.data,
            contents.cross.ctypes.data,
            self._own_positions,
            self._alignment_heads,
        )
        return shares[:-1] if self._predicts else shares[1:]  # whether heads look for the token fed or for the one they name

    def free(self, slot: int) -> None:
        self._contents.pop(slot, None)
        self._lanes.forget(slot)

    def clear(self, slot: int) -> None:
        self._own[slot] = 0
        if contents := self._contents.get(slot):
            contents.cross[:] = 0

    def close(self) -> None:
        self._lanes.close()
        for team in (self._all, self._lone, self._decoding, self._decoding_beside):
            team.close()
        self._model.close()


def shape_of(manifest: Manifest, weights: Mapping[str, np.ndarray]) -> list[int]:
    """See native_library.SHAPE."""
    mlp_dim = len(weights["encoder.0.fc1.bias"])
    rotary_dim = int(np.count_nonzero(weights["rotary"][1, 1]))  # the sines of the second position
    return [
        manifest.dim,
        manifest.heads,
        manifest.head_dim,
        rotary_dim,
        mlp_dim,
        manifest.encoder_layers,
        manifest.decoder_layers,
        manifest.vocabulary,
        manifest.max_positions,
        manifest.end_token,
    ]
