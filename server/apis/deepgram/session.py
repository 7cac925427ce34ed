"""One connection's session in Deepgram's dialect: one stream. Reads no clock and waits for nothing."""

from collections.abc import Callable
from typing import Any

from runtime.audio import SAMPLE_RATE
from server.apis.deepgram import messages as deepgram
from server.apis.deepgram.messages import Asked, Listen, ServerMessage
from server.apis.json_object import parse_object
from server.audio.input import HEARD
from server.errors import ClientError, Code, ServerError
from server.sessions.session import BeginStream, OneStreamSession
from server.stream.events import Event, Failed, Final

SILENT_SECONDS = 10.0  # without audio or KeepAlive: Deepgram ends the stream, and its clients know that
NORMAL, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1008, 1011  # RFC 6455, 7.4.1
NOTHING_CAME, LOST, UNDECODABLE = "NET-0001", "NET-0000", "DATA-0000"  # Deepgram's names

Send = Callable[[ServerMessage], bool]


class DeepgramSession(OneStreamSession):
    """Ends when the client closes the stream, too."""

    def __init__(self, session_id: str, asked: Asked, model_id: str, begin_stream: BeginStream, send: Send,
                 on_end: Callable[[], None]):  # fmt: skip
        super().__init__(session_id, asked.audio_format or HEARD, asked.options, SILENT_SECONDS, begin_stream, on_end)
        self.close_code, self.close_reason = NORMAL, ""
        self._send = send
        self._asked = asked
        self._listen = Listen(asked, model_id)
        self._heard_bytes = 0  # of what the stream hears

    def on_audio(self, pcm: bytes, now: float) -> None:
        if heard := self._hear(pcm, now):
            self._heard_bytes += heard
            for message in self._listen.hear(self._heard_bytes * 1000 // (2 * SAMPLE_RATE)):
                self._send(message)

    def on_text(self, text: str, now: float) -> None:
        if self._has_ended:
            return
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
        if not self.is_finishing:
            self._listen.finalize()
            self._stream.flush(now)

    def _say(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self._close(INTERNAL_ERROR, LOST)
            return True
        sent = all([self._send(message) for message in self._listen.write(event)])
        if isinstance(event, Final):
            self._end()
        return sent

    def fail(self, error: ServerError) -> None:
        self._stream.drop()
        match error.code:
            case Code.IDLE_TIMEOUT:
                self._close(INTERNAL_ERROR, NOTHING_CAME)
            case Code.INVALID_FILE:
                self._close(POLICY_VIOLATION, UNDECODABLE)
            case _:
                self._close(INTERNAL_ERROR, LOST)

    def _close(self, code: int, reason: str) -> None:
        if not self._has_ended:
            self.close_code, self.close_reason = code, reason
            self._end()


def parse(text: str) -> dict[str, Any]:
    """Empty where it is no JSON object."""
    try:
        return parse_object(text, "a message")
    except ClientError:
        return {}
