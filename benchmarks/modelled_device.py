"""A modelled device: each pass takes a given time, and the words depend only on the clip's length.

It replaces the GPU under runtime.engine.device_engine, so that everything on the host's side is real. Its words mean nothing:
each token is followed by the next of one list, as many as speech of the clip's length has, and then the end.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from runtime.audio import SAMPLE_RATE
from runtime.engine.cuda_graphs import CapturedShapes
from runtime.engine.device_engine import BiasTable, DeviceEngine
from runtime.engine.manifest import TORCH
from runtime.engine.shapes import Shape, packed_shapes, shapes_up_to
from runtime.engine.staging import Done, Event, answer_layout, request_layout

TOKENS_PER_SECOND = 3.8  # of a speaker, mean of the evaluation clips
FIRST_TOKEN, KINDS = 300, 4000  # ids that are words
MAX_POSITIONS = 194
START_TOKEN, END_TOKEN = 1, 2
WAIT_SECONDS = 50e-6  # between two checks, asleep


@dataclass(frozen=True)
class Costs:
    """Milliseconds that passes and their rows take."""

    encode_ms: float = 0.0
    encode_second_ms: float = 0.0
    """Time for a second of audio."""
    verify_ms: float = 0.0
    """Time for a pass of more than one token."""
    verify_token_ms: float = 0.0
    """Time for each token of each row in it."""
    step_ms: float = 0.0
    """Time for a pass of one token; step_row_ms: for each row in it."""
    step_row_ms: float = 0.0
    spins: bool = False
    """True if the host spins while it waits, false if it sleeps."""

    def of(self, shape: Shape) -> float:
        """Return the seconds of a pass."""
        if shape.component != "decoder":
            seconds = shape.length / SAMPLE_RATE * (1 if shape.component == "packed encoder" else shape.batch)
            return (self.encode_ms + self.encode_second_ms * seconds) / 1000
        if shape.length == 1:
            return (self.step_ms + self.step_row_ms * shape.batch) / 1000
        return (self.verify_ms + self.verify_token_ms * shape.batch * shape.length) / 1000


class Timeline:
    """The device's work, one pass after the other."""

    def __init__(self, spins: bool):
        self.spins = spins
        self.busy_seconds = 0.0
        self._free_at = 0.0

    def add(self, seconds: float) -> Event:
        if not seconds:
            return Done()
        self._free_at = max(self._free_at, time.perf_counter()) + seconds
        self.busy_seconds += seconds
        return At(self._free_at, self.spins)


@dataclass(frozen=True)
class At:
    """The event of a pass that ends at a time."""

    time: float
    spins: bool

    @property
    def is_done(self) -> bool:
        return time.perf_counter() >= self.time

    def sync(self) -> None:
        while (left := self.time - time.perf_counter()) > 0:
            if not self.spins:
                time.sleep(max(WAIT_SECONDS, left))


class ModelledDevice:
    """See runtime.engine.device_engine.Device."""

    def __init__(self, max_batch: int, max_seconds: float, costs: Costs, packs: bool = True):
        self.max_samples = int(max_seconds * SAMPLE_RATE)
        every = shapes_up_to(max_batch, self.max_samples, MAX_POSITIONS)
        decoder = [shape for shape in every if shape.component == "decoder"]
        encoder = packed_shapes(max_batch, self.max_samples) if packs else [shape for shape in every if shape not in decoder]
        self.shapes: Sequence[Shape] = encoder + decoder
        self.captured = CapturedShapes(lambda shape: None, None)
        self.timeline = Timeline(costs.spins)
        self._costs = costs
        self._tokens = np.zeros(max_batch + 1, np.int64)  # of each slot's clip, without the end token

    def host_memory(self, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def encode(self, shape: Shape, request: np.ndarray) -> Event:
        fields = request_layout(shape).views(request)
        self._tokens[fields["slots"]] = (fields["lengths"] * (TOKENS_PER_SECOND / SAMPLE_RATE)).astype(np.int64)
        return self.timeline.add(self._costs.of(shape))

    def decode(self, shape: Shape, request: np.ndarray, answer: np.ndarray, lists: BiasTable) -> Event:
        asked, said = request_layout(shape).views(request), answer_layout(shape).views(answer)
        positions = asked["past_lengths"][:, None] + np.arange(shape.length)
        is_end = positions >= self._tokens[: shape.batch, None]
        said["tokens"][:] = np.where(is_end, END_TOKEN, FIRST_TOKEN + positions % KINDS)
        said["log_probs"][:] = -0.1
        return self.timeline.add(self._costs.of(shape))

    def clear(self, slot: int) -> None:
        pass

    def align(self, slots: Sequence[int], frames: Sequence[int], tokens: np.ndarray) -> tuple[Event, np.ndarray]:
        new = tokens.shape[1]
        share = np.full((len(slots), new, max(frames)), 1e-3, np.float32)
        for row, valid in zip(share, frames, strict=True):
            row[np.arange(new), np.linspace(0, valid - 1, new).astype(int)] = 1.0
        return self.timeline.add(self._costs.of(Shape("decoder", len(slots), new))), share

    def close(self) -> None:
        pass


def words_of(seconds: float) -> tuple[int, ...]:
    """Return the device's tokens for a clip of this length."""
    return tuple(FIRST_TOKEN + position % KINDS for position in range(int(seconds * TOKENS_PER_SECOND)))


def open_modelled(max_batch: int, max_seconds: float, costs: Costs) -> DeviceEngine:
    manifest = SimpleNamespace(
        target=TORCH,
        precision="modelled",
        max_positions=MAX_POSITIONS,
        start_token=START_TOKEN,
        end_token=END_TOKEN,
        token_scale=1.0,
    )
    return DeviceEngine(ModelledDevice(max_batch, max_seconds, costs), manifest, max_batch)
