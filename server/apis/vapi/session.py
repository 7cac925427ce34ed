"""A call of Vapi: customer and assistant, each on a channel of its own. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.json_text import JsonMessage
from server.apis.utterances import Utterances
from server.apis.vapi import messages
from server.audio.input import AudioInput
from server.errors import ClientError, Code, ServerError
from server.sessions.session import SeatInterface, Session
from server.settings import SessionLimits
from server.stream.events import Event, Failed

Send = Callable[[JsonMessage], bool]


class VapiSession(Session):
    """Takes a place for each channel with its first audio. Vapi gets finals only."""

    def __init__(self, seat: SeatInterface, limits: SessionLimits, send: Send):
        super().__init__(seat, limits.idle_timeout_seconds, options=messages.OPTIONS)
        self._send = send
        self._has_started = False
        self._utterances = [Utterances() for _ in messages.SPEAKERS]

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse(text)
        if message.get("type") != "start":
            return  # Vapi may send other messages in future
        if self._has_started:
            raise ClientError(Code.ALREADY_INITIALISED, "start was sent twice")
        self._input, self._has_started = AudioInput(messages.parse_format(message), is_split=True), True

    def read_audio(self, audio: bytes, now: float) -> None:
        if not self._has_started:
            raise ClientError(Code.NOT_INITIALISED, "audio came before start")
        self._transcribe(audio, now)

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Failed):
            self.write_error(ServerError(event.code, event.message))
            return True
        finals = [each for each in self._utterances[channel].read(event) if each.is_final]
        return all([self._send(messages.response(each, channel)) for each in finals])

    def write_error(self, error: ServerError) -> None:
        self._send(messages.error(error))
