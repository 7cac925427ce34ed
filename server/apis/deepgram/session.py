"""A session in Deepgram's dialect. Reads no clock and waits for nothing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from server.apis.deepgram import messages
from server.apis.deepgram.messages import ResultsWriter
from server.apis.deepgram.query import ListenParameters
from server.apis.json_text import JsonMessage
from server.errors import ClientError, Code, ServerError
from server.sessions.session import INTERNAL_ERROR, POLICY_VIOLATION, SeatInterface, Session
from server.stream.events import Event, Failed, Final

SILENT_SECONDS = 10.0  # longest time without audio or KeepAlive: Deepgram ends the stream, and its clients know that
NOTHING_CAME, LOST, UNDECODABLE = "NET-0001", "NET-0000", "DATA-0000"  # Deepgram's names

Send = Callable[[JsonMessage], bool]


class DeepgramSession(Session):
    """Ends also when the client closes the stream."""

    def __init__(self, seat: SeatInterface, parameters: ListenParameters, model_id: str, send: Send):
        super().__init__(seat, SILENT_SECONDS, parameters.audio_format, parameters.options, parameters.is_split)
        self._send, self._parameters, self._model_id = send, parameters, model_id
        self._writers = [ResultsWriter(parameters, model_id, channel) for channel in range(parameters.channels)]
        self._received_ms, self._final_ms = 0, 0

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse_message(text)
        match message.get("type"):
            case "KeepAlive":
                pass
            case "Configure":
                self._configure(message)
            case "Finalize":
                self._finalize(now)
            case "CloseStream":
                self.finish(now)
            case _:
                self._send(messages.schema_error("a text message must be a JSON object with a known type"))

    def read_audio(self, audio: bytes, now: float) -> None:
        if not audio:
            self.finish(now)  # Deepgram used to take an empty message as the end, and older clients send it
        if milliseconds := self._transcribe(audio, now):
            self._received_ms += milliseconds
            for writer in self._writers:
                for message in writer.receive(self._received_ms):
                    self._send(message)

    def _configure(self, message: Mapping[str, Any]) -> None:
        """Change the keyterms. All other options stay as they were requested at the beginning."""
        request_id = self._parameters.request_id
        try:
            terms = messages.configured_terms(message)
        except ClientError as error:
            self._send(messages.configure_failure(request_id, error))
            return
        if terms is not None:
            self._change(replace(self._options, terms=terms))
        self._send(messages.configure_success(request_id))

    def _finalize(self, now: float) -> None:
        if self.is_finishing:
            return
        if not self._streams:
            self._begin(now)
        for writer, stream in zip(self._writers, self._streams, strict=True):
            writer.finalize()
            stream.flush(now)

    def on_idle(self, error: ServerError, now: float) -> None:
        """Transcribe the received audio to its end; then the socket is closed with Deepgram's code."""
        if not self._streams:
            self.fail(error)
        else:
            self.finish_with(error, now)

    def finish_with(self, error: ServerError, now: float) -> None:
        if not self.is_finishing:
            self._set_close(error.code)
        super().finish_with(error, now)

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Failed):
            self._set_close(event.code)
            return True
        sent = all([self._send(message) for message in self._writers[channel].write(event)])
        if isinstance(event, Final):
            self._final_ms = max(self._final_ms, event.audio_ms)
            if self.is_last(channel):
                self._send(messages.metadata_message(self._parameters, self._model_id, self._final_ms))
        return sent

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
