"""The rate limit of one client. A client that sends faster is read more slowly, and loses nothing."""

MESSAGES_A_SECOND = 500.0  # ten times as many as a client needs with 20 ms of audio in each
CHANGES_A_SECOND = 5.0  # changes of keyterms or of a configuration; each takes up to 40 ms to apply
TEXT_CHARACTERS_A_SECOND = 8_000_000.0  # limit for long messages, which take time to parse regardless of their content
SPEED = 50.0  # times real time
BURST_SECONDS = 6.0  # five minutes of audio, or 3,000 messages, may come at once after a lost connection


class RateLimit:
    """A debt in seconds, which grows with messages or with their audio, whichever costs more, and is paid off in time."""

    def __init__(self, now: float):
        self._debt_seconds, self._at = 0.0, now

    def count(self, now: float, messages: int, audio_seconds: float, characters: int = 0, changes: int = 0) -> None:
        """Add the cost of received messages.

        characters: the length of those that are text. changes: number of those that change the options of streams.
        """
        messages_seconds = messages / MESSAGES_A_SECOND + characters / TEXT_CHARACTERS_A_SECOND + changes / CHANGES_A_SECOND
        self._debt_seconds, self._at = self._debt_at(now) + max(messages_seconds, audio_seconds / SPEED), now

    def share(self, now: float) -> float:
        """Return the share of the allowed debt that is owed; over 1 is too fast."""
        return self._debt_at(now) / BURST_SECONDS

    def _debt_at(self, now: float) -> float:
        return max(0.0, self._debt_seconds - (now - self._at))
