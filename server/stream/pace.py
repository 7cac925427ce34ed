"""The pace of a stream: whether its audio comes as somebody speaks, or faster."""

from runtime.audio import SAMPLE_RATE

LIVE_SPEED = 2.0  # times real time: a client that has caught up after a loss is a speaker again
AHEAD_SECONDS = 60.0  # most audio that may come at once, beyond what this speed allows, from a speaker


class Pace:
    """Compares the time of the audio with the time in which it comes."""

    def __init__(self, now: float):
        self._ahead_seconds, self._position, self._at = 0.0, 0, now

    def reach(self, position: int, now: float) -> None:
        """Audio has come up to this position."""
        seconds = (position - self._position) / SAMPLE_RATE
        self._ahead_seconds = max(0.0, self._ahead_seconds - LIVE_SPEED * (now - self._at)) + seconds
        self._position, self._at = position, now

    def forgive(self) -> None:
        """Treat it as a speaker until more comes too fast."""
        self._ahead_seconds = min(self._ahead_seconds, AHEAD_SECONDS)

    @property
    def is_fast(self) -> bool:
        """True if no speaker's audio comes like this, but a recording's."""
        return self._ahead_seconds > AHEAD_SECONDS
