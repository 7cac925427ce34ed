"""Watch over the engine: detects a hang by the time spent on the current work."""

from collections.abc import Callable, Hashable

HUNG_SECONDS = 3.0  # for one step or one clip; longer if the engine has needed longer
PATIENCE = 5  # times the longest so far
MOST_SECONDS = 15.0
GIVE_UP_SECONDS = 7.0  # beyond the limit


class Watch:
    """Measures the work under way. Work begun on one thread can be checked from any other."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._begun: dict[Hashable, float] = {}
        self._longest = 0.0

    def begin(self, what: Hashable) -> None:
        self._begun[what] = self._clock()

    def end(self, what: Hashable) -> None:
        """End a piece of work; harmless if it was not begun."""
        began = self._begun.pop(what, None)
        if began is not None:
            self._longest = max(self._longest, self._clock() - began)

    @property
    def seconds(self) -> float:
        """Seconds that the longest work has been under way; 0 if there is none."""
        begun = list(self._begun.values())
        return self._clock() - min(begun) if begun else 0.0

    @property
    def limit_seconds(self) -> float:
        return min(MOST_SECONDS, max(HUNG_SECONDS, PATIENCE * self._longest))

    @property
    def is_late(self) -> bool:
        return self.seconds >= self.limit_seconds

    @property
    def is_hopeless(self) -> bool:
        return self.seconds >= self.limit_seconds + GIVE_UP_SECONDS
