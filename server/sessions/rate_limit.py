"""How fast one client may send. Who sends faster is read more slowly, and loses nothing."""

MESSAGES_A_SECOND = 500.0  # ten times as many as a client needs for 20 ms each
SPEED = 50.0  # times real time
BURST_SECONDS = 6.0  # five minutes of audio, or 3,000 messages, come at once where somebody was cut off


class Pace:
    """A debt that grows with every message and is paid off in time."""

    def __init__(self, now: float):
        self._debt_seconds, self._at = 0.0, now

    def take(self, audio_seconds: float, now: float) -> None:
        """A message, with so much audio in it."""
        self._debt_seconds = self._debt_at(now) + max(1 / MESSAGES_A_SECOND, audio_seconds / SPEED)
        self._at = now

    def share(self, now: float) -> float:
        """Of what may be owed: over 1 is too fast."""
        return self._debt_at(now) / BURST_SECONDS

    def _debt_at(self, now: float) -> float:
        return max(0.0, self._debt_seconds - (now - self._at))
