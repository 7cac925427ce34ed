"""Captured shapes: a captured shape is replayed; any other runs without a graph and is counted."""

import logging
import time
from collections.abc import Callable, Iterable

from runtime.engine.shapes import Shape

logger = logging.getLogger(__name__)

Run = Callable[[], None]


class CapturedShapes:
    """One CUDA graph for each shape. Everything is captured at start-up: a capture while serving would stall every stream."""

    def __init__(self, run: Callable[[Shape], None], capture: Callable[[Shape], Run | None] | None):
        """run: runs a shape without a graph. capture: records the same work and returns its replay, or None for a shape that
        cannot be captured; without it, no shape is captured."""
        self._run = run
        self._capture = capture
        self._replays: dict[Shape, Run] = {}
        self.capture_seconds = 0.0
        self.uncaptured_runs = 0
        """Runs of shapes without a graph."""

    @property
    def count(self) -> int:
        return len(self._replays)

    def capture_all(self, shapes: Iterable[Shape]) -> None:
        """Capture the shapes, the largest first: the smaller ones reuse its memory."""
        if self._capture is None:
            return
        began = time.perf_counter()
        for shape in sorted(shapes, key=lambda shape: shape.batch * shape.length, reverse=True):
            replay = self._capture(shape)
            if replay is not None:
                self._replays[shape] = replay
        self.capture_seconds = time.perf_counter() - began
        logger.info("captured %d CUDA graphs in %.1f s", len(self._replays), self.capture_seconds)

    def forget(self) -> None:
        """Drop all graphs; nothing is replayed from now on."""
        self._replays.clear()

    def run(self, shape: Shape) -> None:
        replay = self._replays.get(shape)
        if replay is not None:
            replay()
            return
        self.uncaptured_runs += 1
        self._run(shape)
