"""Several engines on one device as one, so that one works there while the host reads the answers of another."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from runtime.audio import Clip
from runtime.engine.protocol import Engine, Pending, Prediction, Row


class SlotGroups(Engine):
    """Its slots are those of the first engine, then those of the next; each call is of one of them."""

    def __init__(self, engines: Sequence[Engine]):
        """engines: alike."""
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
            rows = [Row(row.slot - first, row.tokens, row.past_length, row.end_bias) for row in rows]
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
        """The slots' engine, and the number of its first slot. Raises ValueError for slots of several, or of none."""
        groups = {slot // self._size for slot in slots}
        if len(groups) != 1 or not 0 <= (group := groups.pop()) < len(self._engines):
            raise ValueError(f"slots {min(slots)} to {max(slots)} are not of one group of {self._size}")
        return self._engines[group], group * self._size

    def _sum(self, of: Callable[[Engine], float]) -> float:
        return sum(map(of, self._engines))

    @property
    def uncaptured_runs(self) -> int:
        return int(self._sum(lambda engine: engine.uncaptured_runs))

    @property
    def captured_shapes(self) -> int:
        return int(self._sum(lambda engine: engine.captured_shapes))

    @property
    def capture_seconds(self) -> float:
        return self._sum(lambda engine: engine.capture_seconds)

    @property
    def bytes_in(self) -> int:
        return int(self._sum(lambda engine: engine.bytes_in))

    @property
    def bytes_out(self) -> int:
        return int(self._sum(lambda engine: engine.bytes_out))
