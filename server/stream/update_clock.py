"""The time of updates: when the next one is due, and how late the engine came to the last. Reads no clock."""

from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Priority
from server.stream.segment_requests import OutstandingRequest

BUSY_SHARE = 0.25  # of an interval that an update came late by: others wait for the engine, too
LONG_SECONDS = 3.0  # of an open segment: to transcribe a longer one again costs most and adds least
LONG_INTERVALS = 1.7  # between two updates of such a segment, while the engine is busy


class UpdateClock:
    """Spaces the updates of one stream."""

    def __init__(self, interval_seconds: float, long_costs_more: bool = True):
        """interval_seconds: the shortest time between two updates. long_costs_more: True where an update of a long segment costs
        more than one of a short segment."""
        self._interval_seconds = interval_seconds
        self._long_costs_more = long_costs_more
        self._last_at = float("-inf")  # when the last update was submitted
        self._due_at: float | None = None  # since when another one has been due, with a request under way
        self._late_seconds = 0.0  # of the last update that was answered

    def next_at(self, segment_samples: int) -> float:
        """Return the time from which on another update may begin. segment_samples: the length of the open segment.

        While the engine is busy, long segments leave it to other streams.
        """
        is_long = self._long_costs_more and segment_samples > LONG_SECONDS * SAMPLE_RATE
        is_busy = self._late_seconds > BUSY_SHARE * self._interval_seconds
        intervals = LONG_INTERVALS if is_long and is_busy else 1.0
        return self._last_at + self._interval_seconds * intervals

    @property
    def is_overdue(self) -> bool:
        """True if an update is due that waits for the request under way."""
        return self._due_at is not None

    def is_due(self, now: float) -> None:
        """An update is due, with a request under way."""
        self._due_at = now

    def forget(self) -> None:
        """Forget an update that was due: its audio has come with something else."""
        self._due_at = None

    def begin(self, now: float) -> float:
        """An update is submitted; returns how many seconds after it was due."""
        late_seconds = 0.0 if self._due_at is None else now - self._due_at
        self._due_at, self._last_at = None, now
        return late_seconds

    def answered(self, late_seconds: float) -> None:
        """An update was answered that the engine began so many seconds after it was due."""
        self._late_seconds = late_seconds


class CompleteResults:
    """Counts results that cover everything that was said in the open segment, and quiet after it."""

    def __init__(self) -> None:
        self._position, self._results = 0, 0

    def count(self, position: int) -> None:
        """A result covers the audio up to the last sound, which ends at this position, and quiet after it."""
        self._results = self._results + 1 if position == self._position else 1
        self._position = position

    def reach(self, results: int, loud_until: int) -> bool:
        """True if so many results cover the audio up to this end of the last sound."""
        return self._results >= results and self._position == loud_until


class AnswerWatch:
    """Notices a request that is not answered."""

    def __init__(self, now: float):
        self._waited_for: OutstandingRequest | None = None
        self._since = now

    def seconds(self, outstanding: OutstandingRequest | None, now: float) -> float:
        """Seconds that this request has been under way, as far as is known; 0 if there is none.

        0 also for one of a recording: it may wait for as long as others speak.
        """
        if outstanding is not self._waited_for:
            self._waited_for, self._since = outstanding, now
        is_awaited = outstanding is not None and outstanding.request.priority is not Priority.FILE
        return now - self._since if is_awaited else 0.0
