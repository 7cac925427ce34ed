"""The record of a session for the log: who, how long, how late, and why it ended. No audio, and no text unless asked."""

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from server.access import Caller
from server.stream.events import Event, Failed, Final, Flushed, Update
from server.telemetry.tracing import Trace

MOST_LATENCIES = 1000  # of the newest updates: their median says enough
FINISHED, LEFT = "final", "left"
"""Reasons for the end of a session, beside the codes of errors: it had its final, or the client went without one."""


@dataclass
class Record:
    """Facts about one session from its beginning."""

    session_id: str
    api: str
    caller: Caller
    opened_at: float
    audio_seconds: float = 0.0
    """Audio that its streams received, as they received it: PCM16 mono at 16 kHz."""
    updates: int = 0
    final_ms: float | None = None
    update_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_LATENCIES))
    trace: Trace = field(default_factory=Trace)
    _texts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The newest text of each stream, and how many of its characters are stable."""

    def observe(self, stream_id: str, event: Event) -> None:
        """Take note of an event of one of the session's streams."""
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
        """The stable text of all streams, in the order of their beginnings."""
        return " ".join(text[:stable] for text, stable in self._texts.values() if stable)

    def fields(self, reason: str, now: float, with_text: bool) -> dict[str, Any]:
        """Return the fields of the log's line by name, without those that are not known. reason: why the session ended."""
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
    """The code of the error that a session ended with; None where it ended as it should."""
    return None if reason in (FINISHED, LEFT) else reason
