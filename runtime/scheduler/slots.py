"""The table of slots (rows of the engine's buffers): the free ones, and those kept for a stream whose audio they hold."""

import heapq


class Slots:
    """Hands out `count` rows from the first on, the lowest free one first, so that busy rows stay a short prefix of the buffers.

    A row may be kept for a stream that will use it again. Other streams get it only if no row is free.
    """

    def __init__(self, first: int, count: int):
        self._free = list(range(first, first + count))  # a heap: ascending already
        self._kept: dict[str, int] = {}  # by stream, the one kept for longest first
        self._freed: list[int] = []
        self._resting: list[int] = []

    @property
    def available(self) -> int:
        return len(self._free) + len(self._kept)

    def keeps(self, stream_id: str) -> bool:
        """True if a slot is kept for the stream."""
        return stream_id in self._kept

    def allocate(self, stream_id: str) -> int:
        """Take the slot that is kept for the stream, else the lowest free one, else the one that was kept for longest.

        Raises IndexError when there is none.
        """
        if stream_id in self._kept:
            return self._kept.pop(stream_id)
        if self._free or not self._kept:
            return heapq.heappop(self._free)
        self._freed.append(slot := self._kept.pop(next(iter(self._kept))))
        return slot

    def free(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is freed twice"
        heapq.heappush(self._free, slot)
        self._freed.append(slot)

    def keep(self, slot: int, stream_id: str) -> None:
        """Keep the slot for the stream; one that was kept for it before is free now."""
        self.forget(stream_id)
        self._kept[stream_id] = slot
        self._resting.append(slot)

    def forget(self, stream_id: str) -> None:
        """Free the slot that is kept for a stream, if there is one."""
        if (slot := self._kept.pop(stream_id, None)) is not None:
            self.free(slot)

    def take_freed(self) -> list[int]:
        """Return the slots freed since the last call, whose audio is no longer needed."""
        freed, self._freed = self._freed, []
        return freed

    def take_resting(self) -> list[int]:
        """Return the slots that are kept for their streams since the last call."""
        resting, self._resting = self._resting, []
        return resting
