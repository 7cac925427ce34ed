"""Simulates many replicas: policies to place sessions, refused sessions, and the costs of growth and failures. Nothing is served.

Sessions come as a Poisson process and last an exponential time, so that each session is equally likely to end next: the
simulation needs no calendar of ends, and a million sessions cost as much as a thousand.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from server.ray.placement import Load, two_choices

SESSION_SECONDS = 300.0  # on average
OVERLOADED_SHARE = 0.95  # of its places taken: updates come late
LOAD = 0.85
SIZES = ((10, 12), (100, 12), (1000, 12), (10, 1000), (100, 1000), (1000, 1000))
"""Replicas, and places of each: two CPU cores, and a large GPU."""
ROUTERS = 4  # independent of each other
OFFERS = 20_000
SEEDS = (1, 2, 3)
LOOK_SECONDS = 1.0  # between two checks of the replicas' load and of the scaler


class Policy(Protocol):
    """The policy of one router."""

    def choose(self) -> int: ...

    def sent(self, replica: int, now: float) -> None: ...

    def told(self, counts: np.ndarray, now: float) -> None:
        """Receive the number of sessions of each replica; it is a second or more old when it is used."""


class Blind:
    """Chooses any replica, like a Service of Kubernetes or round robin."""

    def __init__(self, replicas: int, places: int, dice: random.Random):
        self._replicas, self._dice = replicas, dice

    def choose(self) -> int:
        return self._dice.randrange(self._replicas)

    def sent(self, replica: int, now: float) -> None:
        pass

    def told(self, counts: np.ndarray, now: float) -> None:
        pass


class WithRoom(Blind):
    """Chooses any replica that had free places at the last check, like readiness by /readyz."""

    def __init__(self, replicas: int, places: int, dice: random.Random):
        super().__init__(replicas, places, dice)
        self._places, self._ready = places, np.arange(replicas)

    def choose(self) -> int:
        return int(self._ready[self._dice.randrange(len(self._ready))]) if len(self._ready) else super().choose()

    def told(self, counts: np.ndarray, now: float) -> None:
        self._ready = np.flatnonzero(counts < self._places)


class Least(Blind):
    """Chooses the replica that had the fewest sessions at the last check."""

    def __init__(self, replicas: int, places: int, dice: random.Random):
        self._counts, self._dice = np.zeros(replicas), dice

    def choose(self) -> int:
        least = np.flatnonzero(self._counts == self._counts.min())
        return int(least[self._dice.randrange(len(least))])

    def told(self, counts: np.ndarray, now: float) -> None:
        self._counts = counts.astype(float)


class LeastWithOwn(Least):
    """Like Least, but also counts the sessions that this router has sent since the check."""

    def sent(self, replica: int, now: float) -> None:
        self._counts[replica] += 1


class TwoChoices:
    """The server's own router."""

    def __init__(self, replicas: int, places: int, dice: random.Random):
        self._loads, self._dice, self._places = [Load(places=places) for _ in range(replicas)], dice, places

    def choose(self) -> int:
        return two_choices(self._loads, self._dice)[0]

    def sent(self, replica: int, now: float) -> None:
        self._loads[replica].sent(now)

    def told(self, counts: np.ndarray, now: float) -> None:
        for load, count in zip(self._loads, counts.tolist(), strict=True):
            load.count(count, self._places, now)


PolicyClass = Callable[[int, int, random.Random], Policy]
POLICIES: dict[str, tuple[PolicyClass, float]] = {
    "any replica": (Blind, 1.0),
    "any seen with room, 5 s ago": (WithRoom, 5.0),
    "least sessions, 5 s ago": (Least, 5.0),
    "least sessions, 5 s ago, with its own": (LeastWithOwn, 5.0),
    "two choices, 5 s ago": (TwoChoices, 5.0),
    "two choices, 1 s ago": (TwoChoices, 1.0),
}
"""Policies, each with the greatest age of its counts in seconds."""


class Fleet:
    """Replicas and their sessions."""

    def __init__(self, replicas: int, places: int, dice: random.Random):
        self.counts, self.places = np.zeros(replicas, dtype=int), places
        self._sessions: list[int] = []  # the replica of each session
        self._dice = dice

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, replica: int) -> bool:
        """Add a session to a replica. Returns false if it is full."""
        if self.counts[replica] >= self.places:
            return False
        self.counts[replica] += 1
        self._sessions.append(replica)
        return True

    def leave(self) -> None:
        """End a random session."""
        place = self._dice.randrange(len(self._sessions))
        self._sessions[place], self._sessions[-1] = self._sessions[-1], self._sessions[place]
        self.counts[self._sessions.pop()] -= 1

    def next_event(self, rate: float) -> tuple[float, bool]:
        """Return the seconds until the next session comes, at this rate per second, or ends, and whether it comes."""
        total = rate + len(self) / SESSION_SECONDS
        return self._dice.expovariate(total), self._dice.random() * total < rate

    def add_replicas(self, count: int) -> None:
        self.counts = np.concatenate([self.counts, np.zeros(count, dtype=int)])

    def lose(self, replica: int) -> int:
        """End a replica; returns the number of its sessions."""
        lost = int(self.counts[replica])
        self._sessions = [each for each in self._sessions if each != replica]
        self.counts[replica] = 0
        return lost


@dataclass(frozen=True)
class Placed:
    """Shares of refused and lost offers under one policy."""

    policy: str
    replicas: int
    places: int
    refused: float
    """Share refused at the first try."""
    lost: float
    """Share refused at an immediate second try, too."""
    overloaded: float
    """Share of the replicas' time with more than OVERLOADED_SHARE of their places taken."""


def place(name: str, replicas: int, places: int, seed: int, load: float = LOAD, offers: int = OFFERS) -> Placed:
    """Fill the fleet by the policy, then simulate this many offers while other sessions end."""
    made, age_seconds = POLICIES[name]
    dice = random.Random(seed)
    fleet, routers = Fleet(replicas, places, dice), [made(replicas, places, dice) for _ in range(ROUTERS)]
    rate = load * replicas * places / SESSION_SECONDS
    now, next_look, refused, lost, looks, overloaded = 0.0, 0.0, 0, 0, 0, 0.0
    told_at = [-age_seconds * number / ROUTERS for number in range(ROUTERS)]  # each at a different time
    filling, done = int(load * replicas * places), 0
    while done < filling + offers:
        is_filled = done >= filling
        seconds, comes = fleet.next_event(rate) if is_filled else (dice.expovariate(50 * rate), True)  # it fills 50 times as fast
        now += seconds
        for number, router in enumerate(routers):
            if now - told_at[number] >= age_seconds / (1 if is_filled else 50):
                router.told(fleet.counts, now)
                told_at[number] = now
        if is_filled and now >= next_look:
            looks, overloaded, next_look = looks + 1, overloaded + over(fleet), now + LOOK_SECONDS
        if not comes:
            fleet.leave()
            continue
        done += 1
        tries = [offered(fleet, dice.choice(routers), now)]
        if not tries[0]:
            tries.append(offered(fleet, dice.choice(routers), now))
        refused, lost = refused + (is_filled and not tries[0]), lost + (is_filled and not any(tries))
    return Placed(name, replicas, places, refused / offers, lost / offers, overloaded / max(1, looks))


def offered(fleet: Fleet, router: Policy, now: float) -> bool:
    replica = router.choose()
    router.sent(replica, now)
    return fleet.take(replica)


def over(fleet: Fleet) -> float:
    return float((fleet.counts > OVERLOADED_SHARE * fleet.places).mean())


@dataclass(frozen=True)
class Grown:
    """The cost of a rush."""

    growth: str
    start_seconds: float
    """Seconds until a new replica serves."""
    target: float
    lost: float
    """Share of the offers of half an hour."""


GROWTHS: dict[str, tuple[float, float]] = {
    "twice as many at once": (2.0, 0.0),
    "twice as many in 10 min": (2.0, 600.0),
    "three times as many in 10 min": (3.0, 600.0),
}
START_SECONDS = (30.0, 120.0, 300.0)
TARGETS = (0.85, 0.7, 0.6)
GROWN_REPLICAS, GROWN_PLACES, RUSH_SECONDS, SCALER_SECONDS = 20, 64, 1800.0, 15.0


def grow(name: str, start_seconds: float, target: float, seed: int) -> Grown:
    """Simulate a scaler that keeps the share `target` of the places taken, and replicas that take start_seconds to start."""
    factor, ramp_seconds = GROWTHS[name]
    dice = random.Random(seed)
    fleet = Fleet(GROWN_REPLICAS, GROWN_PLACES, dice)
    base = target * GROWN_REPLICAS * GROWN_PLACES / SESSION_SECONDS
    for number in range(int(target * GROWN_REPLICAS * GROWN_PLACES)):
        fleet.take(number % GROWN_REPLICAS)
    coming: list[float] = []  # time at which each requested replica is ready
    now, next_look, offers, lost = 0.0, 0.0, 0, 0
    while now < RUSH_SECONDS:
        rate = base * (1 + (factor - 1) * min(1.0, now / ramp_seconds if ramp_seconds else 1.0))
        seconds, comes = fleet.next_event(rate)
        now += seconds
        while coming and coming[0] <= now:
            coming.pop(0)
            fleet.add_replicas(1)
        if now >= next_look:
            next_look = now + SCALER_SECONDS
            wanted = int(np.ceil(len(fleet) / (target * GROWN_PLACES)))
            coming += [now + start_seconds] * (wanted - len(fleet.counts) - len(coming))
        if not comes:
            fleet.leave()
        else:
            offers, lost = offers + 1, lost + (not fleet.take(int(np.argmin(fleet.counts))))
    return Grown(name, start_seconds, target, lost / offers)


@dataclass(frozen=True)
class Failed:
    """The cost of a replica's death, after which all its clients reconnect at once."""

    replicas: int
    places: int
    load: float
    waited: float
    """Share of its sessions that found no place at their first try."""
    seconds: float
    """Seconds until every session has a place again."""


FAILED_SIZES = ((3, 12), (10, 12), (3, 200), (10, 200))
FAILED_LOADS = (0.5, 0.7, 0.85)
AGAIN_SECONDS = 4.0  # between two tries of our clients, after the first few
REPLACED_SECONDS = 120.0  # until a new replica replaces it
GIVEN_UP_SECONDS = 600.0


def fail(replicas: int, places: int, load: float, seed: int) -> Failed:
    dice = random.Random(seed)
    fleet, rate = Fleet(replicas, places, dice), load * replicas * places / SESSION_SECONDS
    for number in range(int(load * replicas * places)):
        fleet.take(number % replicas)
    lost = fleet.lose(0)
    waiting, waited, now, next_try = lost, 0, 0.0, 0.0
    while waiting and now < GIVEN_UP_SECONDS:
        alive = range(0 if now >= REPLACED_SECONDS else 1, replicas)
        if now >= next_try:
            waiting = sum(not fleet.take(least_of_two(fleet, alive, dice)) for _ in range(waiting))
            waited, next_try = waited or waiting, now + AGAIN_SECONDS
        seconds, comes = fleet.next_event(rate)
        now += seconds
        if not comes:
            fleet.leave()
        else:
            fleet.take(least_of_two(fleet, alive, dice))
    return Failed(replicas, places, load, waited / lost, next_try - AGAIN_SECONDS)


def least_of_two(fleet: Fleet, alive: Sequence[int], dice: random.Random) -> int:
    return min(dice.sample(alive, min(2, len(alive))), key=lambda replica: fleet.counts[replica])


@dataclass(frozen=True)
class Simulated:
    """Medians over SEEDS."""

    placed: list[Placed]
    grown: list[Grown]
    failed: list[Failed]

    def as_json(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, found: dict) -> "Simulated":
        """Build it from the result of as_json()."""
        kinds = {"placed": Placed, "grown": Grown, "failed": Failed}
        return cls(**{name: [kind(**each) for each in found[name]] for name, kind in kinds.items()})


def run(progress: Callable[[str], None], sizes: Sequence[tuple[int, int]] = SIZES, offers: int = OFFERS) -> Simulated:
    placed = [
        median([place(name, replicas, places, seed, offers=offers) for seed in SEEDS])
        for replicas, places in announced(sizes, progress)
        for name in POLICIES
    ]
    progress("growth")
    grown = [
        median([grow(name, start, target, seed) for seed in SEEDS])
        for name in GROWTHS
        for start in START_SECONDS
        for target in TARGETS
    ]
    progress("failures")
    failed = [
        median([fail(replicas, places, load, seed) for seed in SEEDS])
        for replicas, places in FAILED_SIZES
        for load in FAILED_LOADS
    ]
    return Simulated(placed, grown, failed)


def announced(sizes: Sequence[tuple[int, int]], progress: Callable[[str], None]) -> Iterator[tuple[int, int]]:
    for replicas, places in sizes:
        progress(f"{replicas} replicas of {places} places")
        yield replicas, places


def median(results: Sequence[Any]) -> Any:
    """Return the median of each figure over runs with different seeds."""
    figures = {
        name: float(np.median([getattr(each, name) for each in results]))
        for name, value in asdict(results[0]).items()
        if isinstance(value, float)
    }
    return replace(results[0], **figures)
