"""A session in Deepgram's dialect. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.deepgram import messages
from server.apis.deepgram.messages import DeepgramMessage, ListenParameters, ResultsWriter
from server.audio.input import MONO_16_KHZ
from server.errors import Code, ServerError
from server.sessions.session import INTERNAL_ERROR, POLICY_VIOLATION, SeatInterface, Session
from server.stream.events import Event, Failed
from server.stream.stream import Stream

SILENT_SECONDS = 10.0  # without audio or KeepAlive: Deepgram ends the stream, and its clients know that
NOTHING_CAME, LOST, UNDECODABLE = "NET-0001", "NET-0000", "DATA-0000"  # Deepgram's names

Send = Callable[[DeepgramMessage], bool]


class DeepgramSession(Session):
    """Ends when the client closes the stream, too."""

    def __init__(self, seat: SeatInterface, parameters: ListenParameters, model_id: str, send: Send):
        super().__init__(seat, SILENT_SECONDS, parameters.audio_format or MONO_16_KHZ, parameters.options)
        self._send, self._parameters = send, parameters
        self._writer = ResultsWriter(parameters, model_id)
        self._received_ms = 0

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse_message(text)
        match message.get("type"):
            case "KeepAlive":
                pass
            case "Configure":
                self._send(messages.configured(self._parameters.request_id, message))
            case "Finalize":
                self._finalize(now)
            case "CloseStream":
                self.finish(now)
            case _:
                self._send(messages.schema_error("a text message must be a JSON object with a known type"))

    def read_audio(self, audio: bytes, now: float) -> None:
        if not audio:
            self.finish(now)  # Deepgram took an empty message for the end, and older clients send it
        if milliseconds := self._transcribe(audio, now):
            self._received_ms += milliseconds
            for message in self._writer.receive(self._received_ms):
                self._send(message)

    def _finalize(self, now: float) -> None:
        if not self.is_finishing:
            self._writer.finalize()
            self._opened(now).flush(now)

    def _opened(self, now: float) -> Stream:
        return self._stream or self._begin(now)

    def on_idle(self, error: ServerError, now: float) -> None:
        """The audio that has come is transcribed to its end; then the socket is closed with Deepgram's code."""
        if self._stream is None:
            self.fail(error)
        else:
            self.finish_with(error, now)

    def finish_with(self, error: ServerError, now: float) -> None:
        if not self.is_finishing:
            self._set_close(error.code)
        super().finish_with(error, now)

    def write(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self._set_close(event.code)
            return True
        return all([self._send(message) for message in self._writer.write(event)])

    def write_error(self, error: ServerError) -> None:
        self._set_close(error.code)

    def _set_close(self, code: Code) -> None:
        match code:
            case Code.IDLE_TIMEOUT:
                self.close_code, self.close_reason = INTERNAL_ERROR, NOTHING_CAME
            case Code.INVALID_FILE:
                self.close_code, self.close_reason = POLICY_VIOLATION, UNDECODABLE
            case _:
                self.close_code, self.close_reason = INTERNAL_ERROR, LOST
