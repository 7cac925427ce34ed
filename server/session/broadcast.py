"""A stream that whoever wants to can read: of a sender that has no way back for words. Reads no clock and waits for nothing."""

from collections.abc import Callable, Sequence

from server.dialects.native import Init, Message, NativeDialect
from server.errors import Code, ServerError
from server.settings import SessionLimits
from server.stream import stream
from server.stream.events import Event, Failed, Final, Update
from server.stream.stream import Options, Stream
from server.stream.transcript import Segment

Send = Callable[[Message], bool]
BeginStream = Callable[[Callable[[Event], bool], Options, float], Stream]
"""say, options, now: begins the stream."""


class Reader:
    """Is told of the text so far in its first message, and then only what is new."""

    def __init__(self, init: Init, send: Send, on_end: Callable[[], None]):
        self._dialect, self._send, self.on_end = NativeDialect(init), send, on_end

    def tell(self, event: Event) -> None:
        if self._send(self._dialect.write(event)):
            self._dialect.confirm(event)


class BroadcastSession:
    """Ends by finish() with a final, by fail() with a reason, or by drop() in silence; on_end is called once."""

    def __init__(self, session_id: str, limits: SessionLimits, begin_stream: BeginStream, on_end: Callable[[], None]):
        self.session_id = session_id
        self._limits = limits
        self._begin_stream, self._on_end = begin_stream, on_end
        self._init = Init(sid=session_id, words=True, tail=True)
        self._readers: list[Reader] = []
        self._last: Update | Final | Failed | None = None
        self._has_ended = False

    def begin(self, now: float) -> None:
        """Audio may come."""
        self._stream = self._begin_stream(self._say, self._init.options, now)
        self._last_heard_at = now

    @property
    def segments(self) -> Sequence[Segment]:
        """What is closed so far."""
        return self._last.segments if self._last else ()

    @property
    def is_finishing(self) -> bool:
        return self._stream.state is not stream.State.OPEN

    def add_reader(self, send: Send, on_end: Callable[[], None] = lambda: None) -> Callable[[], None]:
        """Returns what takes the reader away. It is told the text so far, then what is said, then the final or an error.

        A reader that comes behind the end is told the end.
        """
        reader = Reader(self._init, send, on_end)
        if self._last is not None:
            reader.tell(self._last)
        if self._has_ended:
            on_end()
        self._readers.append(reader)
        return lambda: self._readers.remove(reader) if reader in self._readers else None

    @property
    def waiting_seconds(self) -> float:
        return self._stream.waiting_seconds

    @property
    def backlog_seconds(self) -> float:
        return self._stream.backlog_seconds

    def on_audio(self, pcm: bytes, now: float) -> None:
        """PCM16 mono at 16 kHz."""
        self._last_heard_at = now
        self._stream.hear(pcm, now)

    def _say(self, event: Event) -> bool:
        if isinstance(event, Update | Final | Failed):
            self._last = event
        for reader in list(self._readers):
            reader.tell(event)
        if isinstance(event, Final | Failed):
            self._end()
        return True

    # A member of the sessions

    def on_time(self, now: float) -> None:
        if self._stream.state is stream.State.OPEN and now - self._last_heard_at > self._limits.idle_timeout_seconds:
            self.fail(ServerError(Code.IDLE_TIMEOUT, f"no audio came for {self._limits.idle_timeout_seconds:g} s"))
        else:
            self._stream.on_time(now)

    def finish(self, now: float) -> None:
        self._stream.finish(now)

    def fail(self, error: ServerError) -> None:
        self._stream.fail(error.code, error.message)
        self._end()

    def drop(self) -> None:
        self._stream.drop()
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            for reader in self._readers:
                reader.on_end()
            self._on_end()
