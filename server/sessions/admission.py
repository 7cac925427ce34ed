"""Admission decides who may have a session, before any work is done for it."""

from collections import Counter
from dataclasses import dataclass

from runtime.scheduler.transcriber import Status, Transcriber
from server.access import Caller
from server.errors import Code, Refused


@dataclass(frozen=True)
class Counts:
    """Counts of one server, all its gateways together, by which a server is chosen for a session."""

    sessions: int
    max_sessions: int
    is_draining: bool
    """True if the server is about to end and takes no sessions."""


FRAMES_MS = ((32, 20), (64, 60))  # most sessions of a process, and least audio of a message with so many
LONGEST_FRAME_MS = 100
MAX_WAITING = 1024  # connections that have not begun, from everywhere


class Admission:
    """Counts the places of this process, and of the other processes on the same engines."""

    def __init__(self, transcriber: Transcriber, max_sessions: int, max_of_address: int = 0, max_waiting_of_address: int = 256):
        """max_of_address: most sessions of one IP address in this process; 0 means no limit.

        max_waiting_of_address: most connections of it that have not begun.
        """
        self._transcriber = transcriber
        self._max_sessions = max_sessions
        self._max_of_address = max_of_address
        self._taken = 0
        self._of_name: Counter[str] = Counter()
        self._of_address: Counter[str] = Counter()
        self._max_waiting_of_address = max_waiting_of_address
        self._waiting_of_address: Counter[str] = Counter()
        self._is_shutting_down = False

    def refusal(self) -> Refused | None:
        """The reason to refuse a new session, if there is one."""
        status = self._transcriber.status()
        if status is Status.FAILED:
            return Refused(Code.ENGINE_FAILED, "the engine has stopped")
        if status is Status.HUNG:
            return Refused(Code.ENGINE_FAILED, "the engine hangs")
        if self._is_shutting_down:
            return Refused(Code.SHUTTING_DOWN, "the server is shutting down")
        if status is not Status.READY:
            return Refused(Code.WARMING_UP, "the engine is warming up")
        return self._refusal_of_more(1)

    def _refusal_of_more(self, places: int) -> Refused | None:
        if self.counts().sessions + places <= self._max_sessions:
            return None
        if places == 1:
            return Refused(Code.SERVER_FULL, f"all {self._max_sessions} sessions are taken")
        free = max(0, self._max_sessions - self.counts().sessions)
        return Refused(Code.SERVER_FULL, f"{places} sessions are needed, one for each channel; {free} are free")

    def counts(self) -> Counts:
        return Counts(self._taken + self._transcriber.sessions_elsewhere, self._max_sessions, self._is_shutting_down)

    @property
    def frame_ms(self) -> int:
        """Milliseconds of audio that a client should put into a message: a message costs more than the audio in it."""
        return next((frame_ms for most, frame_ms in FRAMES_MS if self._taken <= most), LONGEST_FRAME_MS)

    def begin_waiting(self, caller: Caller) -> None:
        """Count a connection that has not begun, and takes no place. Raises Refused."""
        if refused := self.refusal():
            raise refused
        if self._waiting_of_address.total() >= MAX_WAITING:
            raise Refused(Code.SERVER_FULL, "too many connections have not begun yet")
        if caller.address and self._waiting_of_address[caller.address] >= self._max_waiting_of_address:
            most = self._max_waiting_of_address
            raise Refused(Code.TOO_MANY_SESSIONS, f"{most} connections of this address have not begun yet; no more are taken")
        self._waiting_of_address[caller.address] += 1

    def end_waiting(self, caller: Caller) -> None:
        subtract(self._waiting_of_address, caller.address)

    def take_places(self, caller: Caller, places: int = 1) -> None:
        """Take one place for each channel of a session. Raises Refused."""
        if refused := self.refusal() or self._refusal_of_more(places) or self._refusal_of(caller, places):
            raise refused
        self._count(places)
        self._of_name[caller.name] += places
        self._of_address[caller.address] += places

    def free_places(self, caller: Caller, places: int = 1) -> None:
        self._count(-places)
        assert self._taken >= 0, "a place was given back twice"
        subtract(self._of_name, caller.name, places)
        subtract(self._of_address, caller.address, places)

    def _count(self, more: int) -> None:
        self._taken += more
        self._transcriber.count_sessions(self._taken)

    def _refusal_of(self, caller: Caller, places: int) -> Refused | None:
        if 0 < caller.max_sessions < self._of_name[caller.name] + places:
            return Refused(Code.TOO_MANY_SESSIONS, f"all {caller.max_sessions} sessions of this API key are taken")
        if caller.address and 0 < self._max_of_address < self._of_address[caller.address] + places:
            return Refused(Code.TOO_MANY_SESSIONS, f"all {self._max_of_address} sessions of this address are taken")
        return None

    def shut(self) -> None:
        """Refuse all sessions from now on."""
        self._is_shutting_down = True


def subtract(counter: Counter[str], name: str, count: int = 1) -> None:
    """Subtract from the count of a name. Names without a count are removed: addresses would pile up for months."""
    counter[name] -= count
    if not counter[name]:
        del counter[name]
