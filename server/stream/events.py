"""What a stream says. Dialects turn it into the messages of their clients."""

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
    """All that are closed; the stream's own list, which grows."""
    audio_ms: int
    """How much audio the text covers."""
    latency_ms: float
    """From the newest audio in it to its being said."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody has begun to speak."""

    at_ms: int
    """Of the stream."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Nobody has spoken for as long as was asked for."""

    at_ms: int
    """Of the stream: where the last sound ended."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """All that was heard up to a flush is text that will never change. The stream goes on."""

    text: str
    segments: Sequence[Segment]
    audio_ms: int
    """Where the flush was."""
    latency_ms: float
    """From when it was asked for to its being said."""


@dataclass(frozen=True, slots=True)
class Final:
    """The whole text; nothing follows."""

    text: str
    segments: Sequence[Segment]
    audio_ms: int
    latency_ms: float
    """From when it was asked for to its being said."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream has ended without a final; nothing follows."""

    code: Code
    message: str
    text: str
    """The stable text, which may be kept."""
    segments: Sequence[Segment]
    audio_ms: int
    """How far the closed segments reach."""


Event = Update | SpeechStarted | SpeechStopped | Flushed | Final | Failed
