"""A session whose words go to separate readers: its sender has no way to get them. It reads no clock and waits for nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from server.apis.native.messages import Init, Message
from server.apis.native.writer import NativeWriter
from server.audio.input import MONO_16_KHZ, AudioFormat, AudioInput
from server.errors import ServerError
from server.sessions.session import SeatInterface, Session
from server.stream.events import Event, Failed, Final, Update
from server.stream.transcript import Segment

Send = Callable[[Message], bool]


def do_nothing() -> None:
    """Default for an end that nobody waits for."""


class Reader:
    """Gets the text so far in its first message, and then only what is new."""

    def __init__(self, init: Init, send: Send, on_end: Callable[[], None]):
        self._writers = [NativeWriter(init, channel) for channel in range(init.channels)]
        self._send, self.on_end = send, on_end

    def write(self, event: Event, channel: int) -> None:
        writer = self._writers[channel]
        if self._send(writer.write(event)):
            writer.confirm(event)


class BroadcastSession(Session):
    """Its last message is a final of each channel, or an error."""

    def __init__(self, seat: SeatInterface, idle_seconds: float, audio_format: AudioFormat = MONO_16_KHZ):
        self._init = Init(sid=seat.session_id, words=True, tail=True)
        super().__init__(seat, idle_seconds, audio_format, self._init.options)
        self.on_end: Callable[[], None] = do_nothing
        """Called once, after the last message."""
        self._readers: list[Reader] = []
        self._last: dict[int, Update | Final | Failed] = {}

    def split(self, channels: int) -> None:
        """Transcribe this many channels, each by itself. Called before there is any audio or reader."""
        self._init = Init(sid=self.seat.session_id, channels=channels, words=True, tail=True)
        self._input = AudioInput(AudioFormat(channels=channels), is_split=channels > 1)

    @property
    def segments(self) -> Sequence[Segment]:
        """Segments of all channels that are closed so far, in the order in which they begin."""
        if self._init.channels == 1:
            return self._last[0].segments if self._last else ()
        found = [replace(each, channel=channel) for channel, last in self._last.items() for each in last.segments]
        return sorted(found, key=lambda segment: segment.start_ms)

    def add_reader(self, send: Send, on_end: Callable[[], None] = do_nothing) -> Callable[[], None]:
        """Add a reader. It gets the text so far, then each event, then the final or an error.

        Returns a function that removes the reader. A reader that comes after the end gets only the end.
        """
        reader = Reader(self._init, send, on_end)
        for channel, last in self._last.items():
            reader.write(last, channel)
        if self._has_ended:
            on_end()
        self._readers.append(reader)
        return lambda: self._readers.remove(reader) if reader in self._readers else None

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Update | Final | Failed):
            self._last[channel] = event
        for reader in list(self._readers):
            reader.write(event, channel)
        return True

    def write_error(self, error: ServerError) -> None:
        self.write(Failed(error.code, error.message, "", (), 0), 0)

    def _end(self, reason: str) -> None:
        if not self._has_ended:
            for reader in self._readers:
                reader.on_end()
            self.on_end()
        super()._end(reason)
