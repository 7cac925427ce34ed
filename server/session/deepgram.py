"""One connection's session in Deepgram's dialect: one stream. Reads no clock and waits for nothing."""

import json
from collections.abc import Callable
from typing import Any

from runtime.audio import SAMPLE_RATE
from server.audio.front import HEARD, AudioFront
from server.dialects import deepgram
from server.dialects.deepgram import Asked, Listen, ServerMessage
from server.errors import Code, ServerError
from server.stream import stream
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options, Stream

SILENT_SECONDS = 10.0  # without audio or KeepAlive: Deepgram ends the stream, and its clients know that
NORMAL, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1008, 1011  # RFC 6455, 7.4.1
NOTHING_CAME, LOST, UNDECODABLE = "NET-0001", "NET-0000", "DATA-0000"  # Deepgram's names

Send = Callable[[ServerMessage], bool]
BeginStream = Callable[[Callable[[Event], bool], Options, float], Stream]
"""say, options, now: begins the session's stream."""


class DeepgramSession:
    """Ends when the client closes the stream, by fail() with a reason, or by drop() in silence; on_end is called once."""

    def __init__(self, session_id: str, asked: Asked, model_id: str, begin_stream: BeginStream, send: Send,
                 on_end: Callable[[], None]):  # fmt: skip
        self.session_id = session_id
        self.close_code, self.close_reason = NORMAL, ""
        self._begin_stream, self._send, self._on_end = begin_stream, send, on_end
        self._asked = asked
        self._listen = Listen(asked, model_id)
        self._front = AudioFront(asked.audio_format or HEARD)
        self._heard_bytes = 0  # of what the stream hears
        self._has_ended = False

    def begin(self, now: float) -> None:
        """Audio may come."""
        self._stream = self._begin_stream(self._say, self._asked.options, now)
        self._last_heard_at = now

    @property
    def waiting_seconds(self) -> float:
        return self._stream.waiting_seconds

    @property
    def backlog_seconds(self) -> float:
        return self._stream.backlog_seconds

    def on_audio(self, pcm: bytes, now: float) -> None:
        self._last_heard_at = now
        if self._stream.state is not stream.State.OPEN:
            return  # it crossed with the end
        heard = self._front.take(pcm)
        self._stream.hear(heard, now)
        self._heard_bytes += len(heard)
        for message in self._listen.hear(self._heard_bytes * 1000 // (2 * SAMPLE_RATE)):
            self._send(message)

    def on_text(self, text: str, now: float) -> None:
        self._last_heard_at = now
        message = parse(text)
        match message.get("type"):
            case "KeepAlive":
                pass
            case "Configure":
                self._send(deepgram.configured(self._asked.request_id, message))
            case "Finalize":
                self._finalize(now)
            case "CloseStream":
                self.finish(now)
            case _:
                self._send(deepgram.schema_error("a text message must be a JSON object with a known type"))

    def _finalize(self, now: float) -> None:
        if self._stream.state is stream.State.OPEN:
            self._listen.finalize()
            self._stream.flush(now)

    def _say(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self._end(INTERNAL_ERROR, LOST)
            return True
        sent = all([self._send(message) for message in self._listen.write(event)])
        if isinstance(event, Final):
            self._end(NORMAL, "")
        return sent

    # A member of the sessions

    def on_time(self, now: float) -> None:
        if now - self._last_heard_at > SILENT_SECONDS and self._stream.state is stream.State.OPEN:
            self.fail(ServerError(Code.IDLE_TIMEOUT, f"neither audio nor KeepAlive came for {SILENT_SECONDS:g} s"))
        else:
            self._stream.on_time(now)

    def finish(self, now: float) -> None:
        self._stream.hear(self._front.finish(), now)
        self._stream.finish(now)

    def fail(self, error: ServerError) -> None:
        self._stream.drop()
        match error.code:
            case Code.IDLE_TIMEOUT:
                self._end(INTERNAL_ERROR, NOTHING_CAME)
            case Code.INVALID_FILE:
                self._end(POLICY_VIOLATION, UNDECODABLE)
            case _:
                self._end(INTERNAL_ERROR, LOST)

    def drop(self) -> None:
        self._stream.drop()
        self._end(NORMAL, "")

    def _end(self, code: int, reason: str) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self.close_code, self.close_reason = code, reason
        self._on_end()


def parse(text: str) -> dict[str, Any]:
    """Empty where it is no JSON object."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
