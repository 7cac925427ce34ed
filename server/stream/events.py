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


Event = Update | Final | Failed
