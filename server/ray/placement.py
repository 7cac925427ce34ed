"""Placement of new sessions: of two random replicas that have room, the less loaded one.

Two random choices need no fresh counts and no shared state: with counts that are seconds old they place sessions about as evenly
as perfect knowledge would, and independent routers do not all choose the same replica (Mitzenmacher, 2001).
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

FEW = 16
MARGIN_SECONDS = 0.2  # an offer that was sent this shortly before a count may not be included in it


@dataclass
class Load:
    """Load of one replica, as one router knows it."""

    sessions: float = 0.0
    places: float = 1.0
    _sent_at: deque[float] = field(default_factory=deque)

    def count(self, sessions: float, places: float, counted_at: float) -> None:
        """Take the replica's own counts; taking them again does no harm. counted_at: time on the clock of sent()."""
        self.sessions, self.places = sessions, max(places, 1.0)
        while self._sent_at and self._sent_at[0] < counted_at - MARGIN_SECONDS:
            self._sent_at.popleft()

    def sent(self, now: float) -> None:
        """Note that an offer went to the replica."""
        self._sent_at.append(now)

    @property
    def share(self) -> float:
        """Share of the places that are taken, including sessions that were sent there and are not counted yet."""
        return (self.sessions + len(self._sent_at)) / self.places


def two_choices(loads: Sequence[Load], dice: random.Random) -> list[int]:
    """Return the indices of two random replicas, of those with room if there are any, the less loaded one first."""
    for count in (min(FEW, len(loads)), len(loads)):  # two with room are nearly always among a few
        drawn = dice.sample(range(len(loads)), count)
        with_room = [index for index in drawn if loads[index].share < 1]
        if len(with_room) >= 2:
            break
    return sorted((with_room or drawn)[:2], key=lambda index: loads[index].share)


def ranked(loads: Sequence[Load], dice: random.Random) -> list[int]:
    """Return the indices of all replicas, best first: two choices, then the rest in random order."""
    first = two_choices(loads, dice)
    rest = [index for index in range(len(loads)) if index not in first]
    return first + dice.sample(rest, len(rest))
