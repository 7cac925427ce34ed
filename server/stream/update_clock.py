"""The times of updates: when the next one is due, and how late the engine began the last one. It reads no clock."""

from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Priority
from server.stream.segment_requests import OutstandingRequest

BUSY_SHARE = 0.25  # share of an interval; the engine is busy if it begins an update later than this
PATIENT_SECONDS = 5.0  # that a request of fast audio waits for live speech
LONG_SECONDS = 3.0  # length of an open segment: re-transcribing a longer one costs most and adds least
LONG_INTERVALS = 1.7  # intervals between two updates of such a segment while the engine is busy


class UpdateClock:
    """Spaces the updates of one stream."""

    def __init__(self, interval_seconds: float, long_costs_more: bool = True):
        """interval_seconds: the shortest time between two updates. long_costs_more: True if an update of a long segment costs
        more than one of a short segment."""
        self._interval_seconds = interval_seconds
        self._long_costs_more = long_costs_more
        self._last_at = float("-inf")  # when the last update was submitted
        self._due_at: float | None = None  # time since which another update has been due, with a request under way
        self._late_seconds = 0.0  # lateness of the last update that was answered

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
        """True if an update is due but waits for the request under way."""
        return self._due_at is not None

    def is_due(self, now: float) -> None:
        """Note that an update is due, with a request under way."""
        self._due_at = now

    def forget(self) -> None:
        """Forget an update that was due: another request has covered its audio."""
        self._due_at = None

    def begin(self, now: float) -> float:
        """Note that an update is submitted. Returns the seconds since it was due."""
        late_seconds = 0.0 if self._due_at is None else now - self._due_at
        self._due_at, self._last_at = None, now
        return late_seconds

    def answered(self, late_seconds: float) -> None:
        """Note that an update was answered. late_seconds: from its due time to its start in the engine."""
        self._late_seconds = late_seconds


class CompleteResults:
    """Counts results that cover all speech in the open segment, and quiet after it."""

    def __init__(self) -> None:
        self._position, self._results = 0, 0

    def count(self, position: int) -> None:
        """Count a result that covers the audio up to the last sound, which ends at this position, and quiet after it."""
        self._results = self._results + 1 if position == self._position else 1
        self._position = position

    def reach(self, results: int, loud_until: int) -> bool:
        """True if at least this many results cover the audio up to loud_until, the end of the last sound."""
        return self._results >= results and self._position == loud_until


class AnswerWatch:
    """Notices a request that is not answered, and an end that does not come."""

    def __init__(self, now: float, limit_seconds: float):
        self._limit_seconds = limit_seconds
        self._waited_for: OutstandingRequest | None = None
        self._since = self._answered_at = now
        self.has_waited_long = False
        """True if a request has waited for live speech for so long that it is live speech, too, unless it is of a recording."""

    def answered(self, now: float) -> None:
        """A request was answered."""
        self._answered_at = now

    def look(self, outstanding: OutstandingRequest | None, end_asked_at: float, now: float) -> str:
        """Return what is wrong; empty if nothing is. A recording may wait for as long as others speak.

        end_asked_at: time since which the client waits for a final or a flush; infinite: it does not.
        """
        if outstanding is not self._waited_for:
            self._waited_for, self._since = outstanding, now
        may_wait = outstanding is not None and outstanding.request.priority is Priority.FILE
        self.has_waited_long = may_wait and now - self._since > PATIENT_SECONDS
        if now - max(end_asked_at, self._answered_at) > self._limit_seconds:
            return f"no final within {self._limit_seconds:g} s of closing"
        if outstanding is None or may_wait or now - self._since <= self._limit_seconds:
            return ""
        return f"the engine has not answered within {self._limit_seconds:g} s"
