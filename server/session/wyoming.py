"""One utterance in the Wyoming protocol: from its first audio to its transcript. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.audio.front import AudioFormat, AudioFront
from server.dialects import wyoming
from server.dialects.wyoming import ServerMessage, Transcripts
from server.errors import Code, ServerError
from server.settings import SessionLimits
from server.stream import stream
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options, Stream

Send = Callable[[ServerMessage], bool]
BeginStream = Callable[[Callable[[Event], bool], Options, float], Stream]
"""say, options, now: begins the utterance's stream."""


class WyomingSession:
    """Ends by finish() with its transcript, by fail() with a reason, or by drop() in silence; on_end is called once."""

    def __init__(self, session_id: str, audio_format: AudioFormat, limits: SessionLimits, begin_stream: BeginStream, send: Send,
                 on_end: Callable[[], None]):  # fmt: skip
        self.session_id = session_id
        self.has_failed = False
        self._limits = limits
        self._begin_stream, self._send, self._on_end = begin_stream, send, on_end
        self._front, self._transcripts = AudioFront(audio_format), Transcripts()
        self._has_ended = False

    def begin(self, now: float) -> None:
        """Audio may come."""
        self._stream = self._begin_stream(self._say, Options(), now)
        self._last_heard_at = now

    @property
    def is_finishing(self) -> bool:
        return self._stream.state is not stream.State.OPEN

    @property
    def waiting_seconds(self) -> float:
        return self._stream.waiting_seconds

    @property
    def backlog_seconds(self) -> float:
        return self._stream.backlog_seconds

    def on_audio(self, pcm: bytes, now: float) -> None:
        self._last_heard_at = now
        if not self.is_finishing:
            self._stream.hear(self._front.take(pcm), now)

    def _say(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self._fail(ServerError(event.code, event.message))
            return True
        sent = all([self._send(message) for message in self._transcripts.write(event)])
        if isinstance(event, Final):
            self._end()
        return sent

    # A member of the sessions

    def on_time(self, now: float) -> None:
        if self._stream.state is stream.State.OPEN and now - self._last_heard_at > self._limits.idle_timeout_seconds:
            self.fail(ServerError(Code.IDLE_TIMEOUT, f"no audio came for {self._limits.idle_timeout_seconds:g} s"))
        else:
            self._stream.on_time(now)

    def finish(self, now: float) -> None:
        self._stream.hear(self._front.finish(), now)
        self._stream.finish(now)

    def fail(self, error: ServerError) -> None:
        self._stream.drop()
        self._fail(error)

    def drop(self) -> None:
        self._stream.drop()
        self._end()

    def _fail(self, error: ServerError) -> None:
        if not self._has_ended:
            self.has_failed = True
            self._send(wyoming.error(error))
            self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end()
