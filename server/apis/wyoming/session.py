"""One utterance in the Wyoming protocol: from its first audio to its transcript. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.wyoming import messages
from server.apis.wyoming.messages import TranscriptWriter, WyomingMessage
from server.audio.input import AudioFormat
from server.errors import ServerError
from server.sessions.session import PLAIN, SeatInterface, Session
from server.stream.events import Event, Failed, Final, Flushed

Send = Callable[[WyomingMessage], bool]


class UtteranceSession(Session):
    """Its last message is the transcript, or an error."""

    def __init__(
        self,
        seat: SeatInterface,
        audio_format: AudioFormat,
        idle_seconds: float,
        language: str,
        send: Send,
        ends_early: bool = False,
    ):
        """Make a session.

        language: language of the model, as ISO 639-1. ends_early: True if the transcript comes when the speaker has finished,
        without audio-stop.
        """
        super().__init__(seat, idle_seconds, audio_format, messages.EARLY if ends_early else PLAIN)
        self.has_failed = False
        self._send = send
        self._writer = TranscriptWriter(language)
        self.has_ended_early = False
        """True once the transcript was sent because the speaker had finished."""

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Failed):
            self.write_error(ServerError(event.code, event.message))
            return True
        if self.has_ended_early:
            return True
        if isinstance(event, Flushed):  # the speaker has finished
            self.has_ended_early = True
            event = Final(event.text, event.segments, event.audio_ms, event.latency_ms)
        return all([self._send(message) for message in self._writer.write(event)])

    def on_time(self, now: float) -> None:
        super().on_time(now)
        if self.has_ended_early:
            self.finish(now)

    def write_error(self, error: ServerError) -> None:
        self.has_failed = True
        self._send(messages.error(error))
