"""The record of a session for the log: caller, duration, latency, and why it ended. No audio, and no text unless requested."""

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from server.access import Caller
from server.stream.events import Event, Failed, Final, Flushed, Update
from server.telemetry.tracing import Trace

MOST_LATENCIES = 1000  # of the newest updates: their median is good enough
FINISHED, LEFT = "final", "left"
"""Reasons for the end of a session, in addition to error codes: it had its final, or the client left without one."""


@dataclass
class Record:
    """Facts about one session from its beginning."""

    session_id: str
    api: str
    caller: Caller
    opened_at: float
    audio_seconds: float = 0.0
    """Seconds of audio that its streams received, as PCM16 mono at 16 kHz."""
    updates: int = 0
    final_ms: float | None = None
    update_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_LATENCIES))
    trace: Trace = field(default_factory=Trace)
    _texts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The newest text of each stream, and how many of its characters are stable."""

    def observe(self, stream_id: str, event: Event) -> None:
        """Record an event of one of the session's streams."""
        match event:
            case Update():
                self.updates += 1
                self.update_ms.append(event.latency_ms)
                self.trace.said("update", event.latency_ms)
                self._texts[stream_id] = (event.text, event.stable)
            case Final() | Flushed():
                self.final_ms = event.latency_ms
                self.trace.said("final" if isinstance(event, Final) else "flush", event.latency_ms)
                self._texts[stream_id] = (event.text, len(event.text))
            case Failed():
                self._texts[stream_id] = (event.text, len(event.text))

    @property
    def text(self) -> str:
        """The stable text of all streams, in the order in which they began."""
        return " ".join(text[:stable] for text, stable in self._texts.values() if stable)

    def fields(self, reason: str, now: float, with_text: bool) -> dict[str, Any]:
        """Return the fields of the log line by name, without those that are not known. reason: why the session ended."""
        text = self.text
        found: dict[str, Any] = {
            "session": self.session_id,
            "ended": reason,
            "api": self.api,
            "caller": self.caller.name,
            "address": self.caller.address,
            "seconds": round(now - self.opened_at, 1),
            "audio_seconds": round(self.audio_seconds, 1),
            "words": len(text.split()),
            "updates": self.updates,
            "update_ms": round(statistics.median(self.update_ms)) if self.update_ms else None,
            "final_ms": None if self.final_ms is None else round(self.final_ms),
            "text": text if with_text else None,
        }
        return {name: value for name, value in found.items() if value not in (None, "")}


def error_of(reason: str) -> str | None:
    """Return the code of the error that ended a session; None if it ended normally."""
    return None if reason in (FINISHED, LEFT) else reason
