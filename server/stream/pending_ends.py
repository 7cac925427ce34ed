"""Positions up to which unchanging text is requested: flushes, and the end of the stream."""

import math
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class PendingFlush:
    """A flush that the client has requested, or the end of a turn."""

    position: int
    asked_at: float


class PendingEnds:
    """The flushes of a stream in order, and its end, which replaces them."""

    def __init__(self) -> None:
        self._flushes: deque[PendingFlush] = deque()
        self._finished_at: float | None = None

    def flush(self, position: int, now: float) -> bool:
        """Add a flush; returns True if no other is under way."""
        self._flushes.append(PendingFlush(position, now))
        return len(self._flushes) == 1

    def finish(self, now: float) -> None:
        """Note that the stream has ended."""
        self._finished_at = now

    def flushed(self) -> None:
        """Remove the oldest flush, which is done."""
        self._flushes.popleft()

    def position(self, newest: int) -> int | None:
        """Return the position up to which text is requested now, or None. newest: the position after the newest sample."""
        if self._finished_at is not None:
            return newest
        return self._flushes[0].position if self._flushes else None

    @property
    def asked_at(self) -> float:
        """Time of that request; infinite if there is none."""
        if self._finished_at is not None:
            return self._finished_at
        return self._flushes[0].asked_at if self._flushes else math.inf
