"""The table of slots: which request has which row of the engine's buffers."""

import heapq


class Slots:
    """`count` rows from the first on; the lowest free one is taken, so that the busy rows stay a short prefix of the buffers."""

    def __init__(self, first: int, count: int):
        self._free = list(range(first, first + count))  # a heap: ascending already

    @property
    def available(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        """Take the lowest free slot. Raises IndexError when there is none."""
        return heapq.heappop(self._free)

    def free(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is freed twice"
        heapq.heappush(self._free, slot)
