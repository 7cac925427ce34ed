"""The policy for recordings: they use the capacity that live requests leave. It only decides; the batcher supplies the counts."""

from dataclasses import dataclass

from runtime.engine.protocol import Limits

ROWS_TOGETHER = 8  # rows of recordings: a pass over one of them takes nearly as long as over eight
SLOTS_KEPT_FROM_RECORDINGS = 4  # one slot of this many is kept for live speech


@dataclass(frozen=True)
class RecordingPolicy:
    """The policy for one engine."""

    limits: Limits

    def rest(self, live_waiting: int, free_slots: int, has_live_row: bool) -> bool:
        """True if recordings wait for live requests because cores are few; clips on spare cores are still encoded.

        live_waiting: live requests without a slot. has_live_row: whether a live request has a slot.
        """
        return bool(self.limits.on_processor and (has_live_row or (live_waiting and free_slots)))

    def slots(self, free_slots: int, rest: bool) -> int:
        """Number of free slots that recordings may take. Some stay free, so that live speech need not wait for one."""
        return 0 if rest else max(0, free_slots - (self.limits.max_rows or self.limits.max_batch) // SLOTS_KEPT_FROM_RECORDINGS)

    def gather(self, rows: int, lanes_taken: int, more_wait: bool) -> bool:
        """True if rows of recordings wait for each other while all cores encode, because no row is live.

        rows: rows of the group in flight. more_wait: whether recordings that could have a slot are waiting.
        """
        return bool(self.limits.encode_lanes and rows < ROWS_TOGETHER and (lanes_taken or more_wait))
