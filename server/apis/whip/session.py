"""A stream whose words go to whoever reads them: its sender has no way back for words. Reads no clock and waits for nothing."""

from collections.abc import Callable, Sequence

from server.apis.native.messages import Init, Message, NativeWriter
from server.errors import ServerError
from server.sessions.session import SeatInterface, Session
from server.stream.events import Event, Failed, Final, Update
from server.stream.transcript import Segment

Send = Callable[[Message], bool]


class Reader:
    """Gets the text so far in its first message, and then only what is new."""

    def __init__(self, init: Init, send: Send, on_end: Callable[[], None]):
        self._writer, self._send, self.on_end = NativeWriter(init), send, on_end

    def write(self, event: Event) -> None:
        if self._send(self._writer.write(event)):
            self._writer.confirm(event)


class BroadcastSession(Session):
    """Audio is PCM16 mono at 16 kHz. Its last message is a final, or an error."""

    def __init__(self, seat: SeatInterface, idle_seconds: float):
        self._init = Init(sid=seat.session_id, words=True, tail=True)
        super().__init__(seat, idle_seconds, options=self._init.options)
        self._readers: list[Reader] = []
        self._last: Update | Final | Failed | None = None

    @property
    def segments(self) -> Sequence[Segment]:
        """Segments that are closed so far."""
        return self._last.segments if self._last else ()

    def add_reader(self, send: Send, on_end: Callable[[], None] = lambda: None) -> Callable[[], None]:
        """Write to one reader more: the text so far, then what is said, then the final or an error.

        Returns a function that takes the reader away. A reader that comes after the end gets the end.
        """
        reader = Reader(self._init, send, on_end)
        if self._last is not None:
            reader.write(self._last)
        if self._has_ended:
            on_end()
        self._readers.append(reader)
        return lambda: self._readers.remove(reader) if reader in self._readers else None

    def write(self, event: Event) -> bool:
        if isinstance(event, Update | Final | Failed):
            self._last = event
        for reader in list(self._readers):
            reader.write(event)
        return True

    def write_error(self, error: ServerError) -> None:
        self.write(Failed(error.code, error.message, "", (), 0))

    def _end(self, reason: str) -> None:
        if not self._has_ended:
            for reader in self._readers:
                reader.on_end()
        super()._end(reason)
