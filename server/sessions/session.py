"""A session that has one stream from its beginning to its end. Reads no clock and waits for nothing."""

import abc
from collections.abc import Callable

from server.audio.input import AudioFormat, AudioFront
from server.errors import Code, ServerError
from server.stream import stream
from server.stream.events import Event
from server.stream.stream import Options, Stream

BeginStream = Callable[[Callable[[Event], bool], Options, float], Stream]
"""say, options, now: begins the session's stream."""


class OneStreamSession(abc.ABC):
    """Ends by finish() with its last words, by fail() with a reason, or by drop() in silence; on_end is called once."""

    def __init__(
        self,
        session_id: str,
        audio_format: AudioFormat,
        options: Options,
        idle_seconds: float,
        begin_stream: BeginStream,
        on_end: Callable[[], None],
    ):
        self.session_id = session_id
        self._front = AudioFront(audio_format)
        self._options, self._idle_seconds = options, idle_seconds
        self._begin_stream, self._on_end = begin_stream, on_end
        self._has_ended = False

    def begin(self, now: float) -> None:
        """Audio may come."""
        self._stream = self._begin_stream(self._say, self._options, now)
        self._last_heard_at = now

    @abc.abstractmethod
    def _say(self, event: Event) -> bool:
        """What the stream says."""

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
        self._hear(pcm, now)

    def still_there(self, now: float) -> None:
        """It is the server that does not read."""
        self._last_heard_at = now

    def _hear(self, pcm: bytes, now: float) -> int:
        """How many bytes the stream heard of it; none of what crosses with the end."""
        self._last_heard_at = now
        if self.is_finishing:
            return 0
        heard = self._front.take(pcm)
        self._stream.hear(heard, now)
        return len(heard)

    # A member of the sessions

    def on_time(self, now: float) -> None:
        if not self.is_finishing and now - self._last_heard_at > self._idle_seconds:
            self.fail(ServerError(Code.IDLE_TIMEOUT, f"no audio came for {self._idle_seconds:g} s"))
        else:
            self._stream.on_time(now)

    def finish(self, now: float) -> None:
        """Harmless when that is under way."""
        if not self.is_finishing:
            self._stream.hear(self._front.finish(), now)
            self._stream.finish(now)

    @abc.abstractmethod
    def fail(self, error: ServerError) -> None: ...

    def drop(self) -> None:
        self._stream.drop()
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end()
