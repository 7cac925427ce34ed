"""One utterance in the Wyoming protocol: from its first audio to its transcript. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.wyoming import messages as wyoming
from server.apis.wyoming.messages import ServerMessage, Transcripts
from server.audio.input import AudioFormat
from server.errors import ServerError
from server.sessions.session import BeginStream, OneStreamSession
from server.settings import SessionLimits
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options

Send = Callable[[ServerMessage], bool]


class WyomingSession(OneStreamSession):
    """Its last words are the transcript."""

    def __init__(self, session_id: str, audio_format: AudioFormat, limits: SessionLimits, language: str,
                 begin_stream: BeginStream, send: Send,
                 on_end: Callable[[], None]):  # fmt: skip
        super().__init__(session_id, audio_format, Options(), limits.idle_timeout_seconds, begin_stream, on_end)
        self.has_failed = False
        self._send = send
        self._transcripts = Transcripts(language)

    def _say(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self._fail(ServerError(event.code, event.message))
            return True
        sent = all([self._send(message) for message in self._transcripts.write(event)])
        if isinstance(event, Final):
            self._end()
        return sent

    def fail(self, error: ServerError) -> None:
        self._stream.drop()
        self._fail(error)

    def _fail(self, error: ServerError) -> None:
        if not self._has_ended:
            self.has_failed = True
            self._send(wyoming.error(error))
            self._end()
