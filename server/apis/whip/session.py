"""A stream that whoever wants to can read: of a sender that has no way back for words. Reads no clock and waits for nothing."""

from collections.abc import Callable, Sequence

from server.apis.native.messages import Init, Message, NativeDialect
from server.audio.input import HEARD
from server.errors import ServerError
from server.sessions.session import BeginStream, OneStreamSession
from server.settings import SessionLimits
from server.stream.events import Event, Failed, Final, Update
from server.stream.transcript import Segment

Send = Callable[[Message], bool]


class Reader:
    """Is told of the text so far in its first message, and then only what is new."""

    def __init__(self, init: Init, send: Send, on_end: Callable[[], None]):
        self._dialect, self._send, self.on_end = NativeDialect(init), send, on_end

    def tell(self, event: Event) -> None:
        if self._send(self._dialect.write(event)):
            self._dialect.confirm(event)


class BroadcastSession(OneStreamSession):
    """Audio is PCM16 mono at 16 kHz. Its last words are a final."""

    def __init__(self, session_id: str, limits: SessionLimits, begin_stream: BeginStream, on_end: Callable[[], None]):
        self._init = Init(sid=session_id, words=True, tail=True)
        super().__init__(session_id, HEARD, self._init.options, limits.idle_timeout_seconds, begin_stream, on_end)
        self._readers: list[Reader] = []
        self._last: Update | Final | Failed | None = None

    @property
    def segments(self) -> Sequence[Segment]:
        """What is closed so far."""
        return self._last.segments if self._last else ()

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

    def _say(self, event: Event) -> bool:
        if isinstance(event, Update | Final | Failed):
            self._last = event
        for reader in list(self._readers):
            reader.tell(event)
        if isinstance(event, Final | Failed):
            self._end()
        return True

    def fail(self, error: ServerError) -> None:
        self._stream.fail(error.code, error.message)
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            for reader in self._readers:
                reader.on_end()
        super()._end()
