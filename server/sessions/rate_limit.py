"""The rate limit of one client. A client that sends faster is read more slowly, and loses nothing."""

MESSAGES_A_SECOND = 500.0  # ten times as many as a client needs for 20 ms each
TEXT_CHARACTERS_A_SECOND = 8_000_000.0  # of long messages, which take time to parse whatever is in them
SPEED = 50.0  # times real time
BURST_SECONDS = 6.0  # five minutes of audio, or 3,000 messages, may come at once after a lost connection


class RateLimit:
    """A debt in seconds, which grows with every message or with its audio, whichever costs more, and is paid off in time."""

    def __init__(self, now: float):
        self._debt_seconds, self._at = 0.0, now
        self._paid_seconds = 0.0  # by the message whose audio is counted next

    def count_message(self, now: float, characters: int = 0) -> None:
        """Add the cost of one message. characters: the length of a text message."""
        self._paid_seconds = 1 / MESSAGES_A_SECOND + characters / TEXT_CHARACTERS_A_SECOND
        self._add(self._paid_seconds, now)

    def count_audio(self, audio_seconds: float, now: float) -> None:
        """Add the cost of audio of the last message."""
        cost_seconds = audio_seconds / SPEED
        self._add(max(0.0, cost_seconds - self._paid_seconds), now)
        self._paid_seconds = max(0.0, self._paid_seconds - cost_seconds)

    def share(self, now: float) -> float:
        """Share of the allowed debt that is owed: over 1 is too fast."""
        return self._debt_at(now) / BURST_SECONDS

    def _add(self, seconds: float, now: float) -> None:
        self._debt_seconds, self._at = self._debt_at(now) + seconds, now

    def _debt_at(self, now: float) -> float:
        return max(0.0, self._debt_seconds - (now - self._at))
