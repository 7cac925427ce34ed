"""What is logged of a session at its end: who, how long, how late, and why it ended. No audio, and no text unless asked."""

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from server.access import Caller
from server.sessions.rate_limit import Pace
from server.stream.events import Event, Failed, Final, Flushed, Update
from server.telemetry.tracing import Trace

MOST_LATENCIES = 1000  # of the newest updates: their median says enough


@dataclass
class Record:
    """Of one session, from its beginning."""

    session_id: str
    api: str
    caller: Caller
    opened_at: float
    audio_seconds: float = 0.0
    words: int = 0
    updates: int = 0
    ended: str = "left"
    """"final", the code of an error, or "left" where the client went without a word."""
    final_ms: float | None = None
    text: str = ""
    update_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_LATENCIES))
    pace: Pace = field(init=False)
    trace: Trace = field(default_factory=Trace)

    def __post_init__(self) -> None:
        self.pace = Pace(self.opened_at)

    def observe(self, event: Event) -> None:
        """Take note of what the session's stream says; one with several streams adds up."""
        match event:
            case Update():
                self.updates += 1
                self.update_ms.append(event.latency_ms)
                self.trace.said("update", event.latency_ms)
            case Final() | Flushed():
                self.ended = "final" if isinstance(event, Final) else self.ended
                self.final_ms = event.latency_ms
                self.trace.said("final" if isinstance(event, Final) else "flush", event.latency_ms)
            case Failed():
                self.ended = event.code.value
        if isinstance(event, Final | Failed):
            self.words += len(event.text.split())
            self.text = f"{self.text} {event.text}".strip()

    @property
    def error(self) -> str | None:
        """The code of the error that it ended with, if it did."""
        return None if self.ended in ("final", "left") else self.ended

    def fields(self, now: float, with_text: bool) -> dict[str, Any]:
        """For a log, by name; what is not known is left out."""
        found: dict[str, Any] = {
            "session": self.session_id,
            "ended": self.ended,
            "api": self.api,
            "caller": self.caller.name,
            "address": self.caller.address,
            "seconds": round(now - self.opened_at, 1),
            "audio_seconds": round(self.audio_seconds, 1),
            "words": self.words,
            "updates": self.updates,
            "update_ms": round(statistics.median(self.update_ms)) if self.update_ms else None,
            "final_ms": None if self.final_ms is None else round(self.final_ms),
            "text": self.text if with_text else None,
        }
        return {name: value for name, value in found.items() if value not in (None, "")}
