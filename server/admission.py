"""Who may have a session. Decided here alone, before anything is spent on it."""

from runtime.scheduler.transcriber import Status, Transcriber
from server.errors import Code, Refused


class Admission:
    """Counts the places of this process, and of the others on the same engines."""

    def __init__(self, transcriber: Transcriber, max_sessions: int):
        self._transcriber = transcriber
        self._max_sessions = max_sessions
        self._taken = 0
        self._is_shutting_down = False

    def refusal(self) -> Refused | None:
        """What keeps a new session out."""
        status = self._transcriber.status()
        if status is Status.FAILED:
            return Refused(Code.ENGINE_FAILED, "the engine has stopped")
        if self._is_shutting_down:
            return Refused(Code.SHUTTING_DOWN, "the server is shutting down")
        if status is not Status.READY:
            return Refused(Code.WARMING_UP, "the engine is warming up")
        if self._taken + self._transcriber.sessions_elsewhere >= self._max_sessions:
            return Refused(Code.SERVER_FULL, f"all {self._max_sessions} sessions are taken")
        return None

    def take_place(self) -> None:
        """Raises Refused."""
        if refused := self.refusal():
            raise refused
        self._taken += 1

    def free_place(self) -> None:
        self._taken -= 1
        assert self._taken >= 0, "a place was given back twice"

    def shut(self) -> None:
        """From now on nobody is let in."""
        self._is_shutting_down = True
