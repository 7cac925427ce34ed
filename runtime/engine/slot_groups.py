"""Several engines on one device combined into one, so that one works while the host reads the answers of another."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.audio import Clip
from runtime.engine.protocol import Engine, Pending, Prediction, Row


def summed(name: str) -> Any:
    """Sum of a counter over all engines."""
    return property(lambda self: sum(getattr(engine, name) for engine in self._engines))


class SlotGroups(Engine):
    """Combines engines: its slots are those of the first engine, then those of the next. Each call is for one of them."""

    uncaptured_runs, captured_shapes, capture_seconds = map(summed, ("uncaptured_runs", "captured_shapes", "capture_seconds"))
    bytes_in, bytes_out = map(summed, ("bytes_in", "bytes_out"))

    def __init__(self, engines: Sequence[Engine]):
        """engines: engines with the same limits and name."""
        (first, *_) = self._engines = engines
        self._size = first.limits.max_batch
        self.name = first.name
        self.limits = dataclasses.replace(first.limits, max_batch=self._size * len(engines), slot_groups=len(engines))

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        engine, first = self._group_of(slots)
        engine.encode([slot - first for slot in slots], clips)

    def launch(self, rows: Sequence[Row]) -> Pending[Prediction]:
        engine, first = self._group_of([row.slot for row in rows])
        if first:
            rows = [Row(row.slot - first, row.tokens, row.past_length, row.end_bias, row.biases) for row in rows]
        return engine.launch(rows)

    def align(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Pending[np.ndarray]:
        engine, first = self._group_of(slots)
        return engine.align([slot - first for slot in slots], tokens)

    def wait(self) -> None:
        for engine in self._engines:
            engine.wait()

    def free(self, slot: int) -> None:
        engine, first = self._group_of([slot])
        engine.free(slot - first)

    def clear(self, slot: int) -> None:
        engine, first = self._group_of([slot])
        engine.clear(slot - first)

    def close(self) -> None:
        for engine in self._engines:
            engine.close()

    def _group_of(self, slots: Sequence[int]) -> tuple[Engine, int]:
        """Return the slots' engine and the number of its first slot. Raises ValueError for slots of several or no engines."""
        groups = {slot // self._size for slot in slots}
        if len(groups) != 1 or not 0 <= (group := groups.pop()) < len(self._engines):
            raise ValueError(f"slots {min(slots)} to {max(slots)} are not of one group of {self._size}")
        return self._engines[group], group * self._size
