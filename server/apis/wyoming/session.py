"""One utterance in the Wyoming protocol: from its first audio to its transcript. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.wyoming import messages
from server.apis.wyoming.messages import TranscriptWriter, WyomingMessage
from server.audio.input import AudioFormat
from server.errors import ServerError
from server.sessions.session import SeatInterface, Session
from server.stream.events import Event, Failed

Send = Callable[[WyomingMessage], bool]


class UtteranceSession(Session):
    """Its last message is the transcript, or an error."""

    def __init__(self, seat: SeatInterface, audio_format: AudioFormat, idle_seconds: float, language: str, send: Send):
        """language: of the model, as ISO 639-1."""
        super().__init__(seat, idle_seconds, audio_format)
        self.has_failed = False
        self._send = send
        self._writer = TranscriptWriter(language)

    def write(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self.write_error(ServerError(event.code, event.message))
            return True
        return all([self._send(message) for message in self._writer.write(event)])

    def write_error(self, error: ServerError) -> None:
        self.has_failed = True
        self._send(messages.error(error))
