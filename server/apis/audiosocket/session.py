"""A call of Asterisk, by AudioSocket. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.audiosocket import messages
from server.apis.audiosocket.messages import Kind
from server.apis.broadcast.session import BroadcastSession
from server.audio.input import AudioFormat, AudioInput
from server.errors import ClientError, Code
from server.sessions.session import SeatInterface
from server.settings import SessionLimits

Publish = Callable[[str], None]


class CallSession(BroadcastSession):
    """Takes its place with its first audio. Each binary message is a frame: its kind, and its payload."""

    def __init__(self, seat: SeatInterface, limits: SessionLimits, publish: Publish):
        """Make a session. publish: makes the words readable under a name, the UUID of the call."""
        super().__init__(seat, limits.idle_timeout_seconds)
        self._publish = publish
        self._is_published = False
        self._format: AudioFormat | None = None

    def read_audio(self, audio: bytes, now: float) -> None:
        kind, payload = audio[0], audio[1:]
        match kind:
            case Kind.UUID if not self._is_published:
                self._publish(messages.call_name(payload))
                self._is_published = True
            case Kind.UUID:
                raise ClientError(Code.ALREADY_INITIALISED, "the UUID was sent twice")
            case Kind.HANG_UP | Kind.ERROR:
                self.finish(now)
            case _:
                self._take(messages.audio_format(kind), payload, now)

    def _take(self, audio_format: AudioFormat | None, payload: bytes, now: float) -> None:
        """Take the audio of a frame. Digits and future kinds of frames have none."""
        if audio_format is None:
            return
        if not self._is_published:
            raise ClientError(Code.NOT_INITIALISED, "audio came before the UUID of the call")
        if audio_format != self._format:
            if self._streams:
                self._receive(self._input.finish(), now)
            self._format, self._input = audio_format, AudioInput(audio_format)
        self._transcribe(payload, now)
