"""One client's session: the life cycle that sessions of all APIs share. It reads no clock and waits for nothing.

A session reads its client's messages, passes the audio to a stream, and writes the events of the stream as messages of its API.
It ends once: by finish() with its last message, by fail() with a reason, or by drop() without a message.
"""

import abc
import enum
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from runtime.audio import SAMPLE_RATE
from server.audio.input import MONO_16_KHZ, AudioFormat, AudioInput
from server.errors import ClientError, Code, ServerError
from server.sessions.record import FINISHED, LEFT
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options, Stream, StreamState

PLAIN = Options()
NORMAL, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1008, 1011  # close codes of WebSockets: RFC 6455, 7.4.1


MOST_REASON_BYTES = 120  # of the reason in a close frame, which holds more


class SessionState(enum.Enum):
    WAITING = "waiting"
    """No audio has come, or the client has not sent its options."""
    STREAMING = "streaming"
    FINISHING = "finishing"
    """The audio has ended; the last message has not been written."""
    ENDED = "ended"


class SeatInterface(Protocol):
    """The part of a seat that its session uses."""

    @property
    def session_id(self) -> str: ...

    @property
    def opened_at(self) -> float: ...

    @property
    def evidence_of_turns(self) -> str:
        """Evidence by which ends of turns are judged: "silence, text", or with ", sound" if there is a turn model."""
        ...

    @property
    def frame_ms(self) -> int:
        """Milliseconds of audio that a message should carry, at the present load of the server."""
        ...

    def attach(self, session: "Session") -> None:
        """Set the session of the seat."""

    def take_places(self, count: int = 1) -> None:
        """Take places until the seat has `count` of them. Raises Refused."""

    def open_stream(self, say: Callable[[Event], bool], options: Options, now: float) -> Stream:
        """Begin a stream. Raises Refused."""

    def transcribe_all(self, pcm: bytes, say: Callable[[Event], bool], options: Options) -> Stream:
        """Begin a stream that receives all of its audio at once: PCM16 mono at 16 kHz. Raises Refused."""

    def close_stream(self, closed: Stream) -> None: ...

    def count_audio(self, pcm: bytes) -> None:
        """Count audio that a stream receives, as PCM16 mono at 16 kHz."""

    def count_change(self) -> None:
        """Count a change of the streams' options."""

    def end(self, reason: str) -> None:
        """End the seat: the session has ended. reason: FINISHED, LEFT or the code of an error."""


class Session(abc.ABC):
    """Subclasses read messages and write events."""

    has_time_limit: ClassVar[bool] = True
    """Whether ASR_MAX_SESSION_SECONDS applies to it."""

    def __init__(
        self,
        seat: SeatInterface,
        idle_seconds: float,
        audio_format: AudioFormat = MONO_16_KHZ,
        options: Options = PLAIN,
        is_split: bool = False,
    ):
        """Make a session.

        idle_seconds: a client that sends nothing for longer is given up. is_split: each channel has a stream of its own.
        """
        self.seat = seat
        self.close_code, self.close_reason = NORMAL, ""
        """Close code and reason of a WebSocket, after the last message."""
        self._options, self._idle_seconds = options, idle_seconds
        self._input = AudioInput(audio_format, is_split)
        self._streams: tuple[Stream, ...] = ()
        self._received_bytes = 0  # received bytes of one channel
        self._has_ended = False
        self._reported: str = FINISHED
        """Reason for the end that is reported with a final."""
        self._last_received_at = seat.opened_at
        seat.attach(self)

    @property
    def state(self) -> SessionState:
        if self._has_ended:
            return SessionState.ENDED
        if not self._streams:
            return SessionState.WAITING
        is_open = any(each.state is StreamState.OPEN for each in self._streams)
        return SessionState.STREAMING if is_open else SessionState.FINISHING

    @property
    def is_finishing(self) -> bool:
        """Whether audio that comes now is too late."""
        if self._has_ended:
            return True
        for each in self._streams:
            if each.state is StreamState.OPEN:
                return False
        return bool(self._streams)

    # What the client does

    def on_text(self, text: str, now: float) -> None:
        """Read a text message."""
        if self._has_ended:
            return
        self._last_received_at = now
        try:
            self.read_text(text, now)
        except ServerError as error:
            self.fail(error)

    def on_audio(self, audio: bytes, now: float) -> None:
        """Read a binary message, or a piece of an audio track."""
        if self._has_ended:
            return
        try:
            self.read_audio(audio, now)
        except ServerError as error:
            self.fail(error)

    def on_time(self, now: float) -> None:
        """Check for audio and answers that do not come. Called about every 0.1 s."""
        if self._has_ended:
            return
        if not self.is_finishing and (error := self.idle_error(now - self._last_received_at)):
            self.on_idle(error, now)
        else:
            for each in self._streams:
                each.on_time(now)

    def reset_idle(self, now: float) -> None:
        """Reset the idle timer: the client waits because the server is not reading."""
        self._last_received_at = now

    # What subclasses do

    def read_text(self, text: str, now: float) -> None:
        """Handle a text message. Raises ServerError, which ends the session."""
        raise ClientError(Code.BAD_MESSAGE, "no text is taken here")

    def read_audio(self, audio: bytes, now: float) -> None:
        """Take audio as the client sends it. Raises ServerError, which ends the session."""
        self._transcribe(audio, now)

    @abc.abstractmethod
    def write(self, event: Event, channel: int) -> bool:
        """Write an event of a stream; returns False if an Update was not sent. Final and Failed are its last events.

        channel: channel of the stream, counted from 0. APIs with one channel may ignore it.
        """

    @abc.abstractmethod
    def write_error(self, error: ServerError) -> None:
        """Write the error that ends a session without a stream."""

    def idle_error(self, quiet_seconds: float) -> ServerError | None:
        """Return the error of a client that has sent nothing for `quiet_seconds`, if that is too long."""
        if quiet_seconds <= self._idle_seconds:
            return None
        return ServerError(Code.IDLE_TIMEOUT, f"nothing was sent for {self._idle_seconds:g} s")

    def on_idle(self, error: ServerError, now: float) -> None:
        """Handle a client that has been idle for too long."""
        self.fail(error)

    def finish_unstarted(self, now: float) -> None:
        """Finish a session that has received no audio."""
        for channel in range(self._input.channels):
            self._say(Final("", (), 0, latency_ms=0.0), channel)

    def move(self, seconds: float) -> None:  # noqa: B027 - most APIs have no message for it
        """Inform a client that asked for it that the server ends within `seconds`."""

    # How it ends

    def finish(self, now: float, is_cut: bool = False) -> None:
        """End the audio: the client gets its final. Does nothing while that is under way.

        is_cut: True if the speaker may go on elsewhere.
        """
        if self.is_finishing:
            return
        if not self._streams:
            self.finish_unstarted(now)
        else:
            self._receive(self._input.finish(), now)
            for each in self._streams:
                each.finish(now, is_cut)

    def finish_with(self, error: ServerError, now: float) -> None:
        """Finish, so that this error does not lose the text. The error is reported as the reason for the end."""
        if not self.is_finishing:
            self._reported = error.code
            self.finish(now, is_cut=True)

    def fail(self, error: ServerError) -> None:
        """Send the client an error, with the text that it may keep."""
        if self._has_ended:
            return
        for each in self._streams:
            each.fail(error.code, error.message)  # which comes back as Failed, and ends the session
        if not self._has_ended:
            self.write_error(error)
            self._end(error.code)

    def leave(self, now: float) -> None:
        """Handle a client that has left without notice."""
        self.drop()

    def drop(self) -> None:
        """End without a message."""
        self._end(LEFT)

    def _end(self, reason: str) -> None:
        if not self._has_ended:
            self._has_ended = True
            self.seat.end(reason)

    # Its streams, one for each channel

    @property
    def _stream(self) -> Stream | None:
        """The stream of the first channel, the only one in most sessions; None before the first audio."""
        return self._streams[0] if self._streams else None

    def _begin(self, now: float) -> None:
        """Raises Refused."""
        self.seat.take_places(self._input.channels)
        self._streams = tuple(self._open_channel(channel, now) for channel in range(self._input.channels))

    def _open_channel(self, channel: int, now: float) -> Stream:
        return self.seat.open_stream(lambda event: self._say(event, channel), self._options, now)

    def _change(self, options: Options) -> None:
        """Change the options of the streams."""
        if options != self._options:
            self._options = options
            self.seat.count_change()
            for stream in self._streams:
                stream.ask(options)

    def _transcribe(self, audio: bytes, now: float) -> int:
        """Pass audio to the streams, which begin with it; returns its milliseconds. Audio after the end is ignored."""
        if audio:  # empty messages do not keep a session alive
            self._last_received_at = now
        if self.is_finishing:
            return 0
        pcm = self._input.take(audio)
        if not self._streams:
            self._begin(now)
        self._receive(pcm, now)
        before_ms, self._received_bytes = milliseconds(self._received_bytes), self._received_bytes + len(pcm[0])
        return milliseconds(self._received_bytes) - before_ms

    def _receive(self, pcm: Sequence[bytes], now: float) -> None:
        """Pass audio to the streams. pcm: the audio of each channel."""
        for receiver, audio in zip(self._streams, pcm, strict=True):
            self.seat.count_audio(audio)
            receiver.receive(audio, now)

    def _say(self, event: Event, channel: int = 0) -> bool:
        sent = self.write(event, channel)
        if isinstance(event, Failed):
            for other in self._streams:
                other.fail(event.code, event.message)  # each reports the text that may be kept
            self._end(event.code)
        elif isinstance(event, Final) and self.is_last(channel):
            self._end(self._reported)
        return sent

    def is_last(self, channel: int) -> bool:
        """True if a channel and all others have sent their last event."""
        if not self._streams:
            return channel == self._input.channels - 1
        return all(each.state is StreamState.ENDED for each in self._streams)


def close_reason_of(error: ServerError) -> str:
    """Return an error's message as the reason of a close frame, which holds 123 bytes (RFC 6455, 5.5.1)."""
    return error.message.encode()[:MOST_REASON_BYTES].decode(errors="ignore")


def milliseconds(pcm_bytes: int) -> int:
    return pcm_bytes * 1000 // (2 * SAMPLE_RATE)
