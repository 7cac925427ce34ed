"""Turns: when somebody begins and ends to speak, as a function of which levels are sound."""

from collections import deque
from collections.abc import Iterable, Iterator

from runtime.audio import SAMPLE_RATE
from server.stream.events import SpeechStarted, SpeechStopped
from server.stream.loudness import LEVEL_SAMPLES, LEVELS_PER_SECOND

ONSET_LEVELS, ONSET_LOUD = 6, 4  # so many of the newest levels are sound where speech begins: a click is shorter
LEVEL_MS = 1000 * LEVEL_SAMPLES // SAMPLE_RATE


class Turns:
    """Takes every level in order."""

    def __init__(self, silence_seconds: float, levels: int = 0):
        """silence_seconds: so long a silence ends a turn. levels: of the stream before the first that it takes."""
        self._silence_levels = max(1, round(silence_seconds * LEVELS_PER_SECOND))
        self._recent: deque[bool] = deque(maxlen=ONSET_LEVELS)
        self._levels = levels  # of the stream so far
        self._loud_until = 0  # the level behind the last loud one
        self._is_speaking = False

    def end(self) -> None:
        """The turn is over: what follows begins another."""
        self._is_speaking = False
        self._recent.clear()

    def receive(self, loud: Iterable[bool]) -> Iterator[SpeechStarted | SpeechStopped]:
        """Take levels in order; yields the turns that begin and end within them."""
        for is_loud in loud:
            self._levels += 1
            self._recent.append(is_loud)
            if is_loud:
                self._loud_until = self._levels
            if not self._is_speaking and sum(self._recent) >= ONSET_LOUD:
                self._is_speaking = True
                first = self._levels - len(self._recent) + self._recent.index(True)
                yield SpeechStarted(first * LEVEL_MS)
            elif self._is_speaking and self._levels - self._loud_until >= self._silence_levels:
                self.end()
                yield SpeechStopped(self._loud_until * LEVEL_MS)
