"""Events of a stream. Each API turns them into its messages."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.errors import Code
from server.stream.transcript import Segment


@dataclass(frozen=True, slots=True)
class Update:
    """The text so far has changed, or more of it is stable."""

    text: str
    stable: int
    """Leading characters of text that will never change."""
    segments: Sequence[Segment]
    """All closed segments: the stream's own list, which grows."""
    audio_ms: int
    """Milliseconds of audio that the text covers."""
    latency_ms: float
    """Milliseconds from the newest audio in the text to this event."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody has begun to speak."""

    at_ms: int
    """Milliseconds from the start of the stream."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The turn is over, according to the requested rule."""

    at_ms: int
    """Milliseconds from the start of the stream to the end of the last sound."""
    probability: float = 1.0
    """Probability that the turn is over, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class TurnPause:
    """Nobody speaks, within a turn or at its end."""

    at_ms: int
    """Milliseconds from the start of the stream to the end of the last sound."""
    silence_ms: int
    """Milliseconds since then."""
    probability: float
    """Probability that the turn is over, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """All audio up to a flush has text that will never change. The stream goes on."""

    text: str
    segments: Sequence[Segment]
    audio_ms: int
    """Milliseconds from the start of the stream to the flush."""
    latency_ms: float
    """Milliseconds from the request for the flush to this event."""


@dataclass(frozen=True, slots=True)
class Final:
    """The whole text; nothing follows."""

    text: str
    segments: Sequence[Segment]
    audio_ms: int
    latency_ms: float
    """Milliseconds from the request for the end to this event."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream has ended without a final; nothing follows."""

    code: Code
    message: str
    text: str
    """The stable text, which may be kept."""
    segments: Sequence[Segment]
    audio_ms: int
    """Milliseconds of audio that the closed segments cover."""


Event = Update | SpeechStarted | SpeechStopped | TurnPause | Flushed | Final | Failed
