"""One client's session: the life that sessions of all APIs share. Reads no clock and waits for nothing.

A session reads what its client sends, has a stream transcribe the audio, and writes what the stream says as the messages of its
API. It ends once: by finish() with its last message, by fail() with a reason, or by drop() in silence.
"""

import abc
import enum
from collections.abc import Callable
from typing import ClassVar, Protocol

from runtime.audio import SAMPLE_RATE
from server.audio.input import MONO_16_KHZ, AudioFormat, AudioInput
from server.errors import ClientError, Code, ServerError
from server.sessions.record import FINISHED, LEFT
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options, Stream, StreamState

PLAIN = Options()
NORMAL, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1008, 1011  # close codes of WebSockets: RFC 6455, 7.4.1


class SessionState(enum.Enum):
    WAITING = "waiting"
    """No audio has come, or the client has not said what it wants."""
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

    def attach(self, session: "Session") -> None:
        """The seat's session, from now on."""

    def open_stream(self, say: Callable[[Event], bool], options: Options, now: float) -> Stream:
        """Begin a stream. Raises Refused."""

    def transcribe_all(self, pcm: bytes, say: Callable[[Event], bool], options: Options) -> Stream:
        """Begin a stream that receives all of its audio at once: PCM16 mono at 16 kHz. Raises Refused."""

    def close_stream(self, closed: Stream) -> None: ...

    def count_audio(self, pcm: bytes) -> None:
        """Count audio that a stream receives, as PCM16 mono at 16 kHz."""

    def end(self, reason: str) -> None:
        """The session has ended. reason: FINISHED, LEFT or the code of an error."""


class Session(abc.ABC):
    """Subclasses read messages and write events."""

    has_time_limit: ClassVar[bool] = True
    """Whether ASR_MAX_SESSION_SECONDS counts for it."""

    def __init__(
        self,
        seat: SeatInterface,
        idle_seconds: float,
        audio_format: AudioFormat = MONO_16_KHZ,
        options: Options = PLAIN,
    ):
        """idle_seconds: a client that sends nothing for longer is given up."""
        self.seat = seat
        self.close_code, self.close_reason = NORMAL, ""
        """Close code and reason of a WebSocket, after the last message."""
        self._options, self._idle_seconds = options, idle_seconds
        self._input = AudioInput(audio_format)
        self._stream: Stream | None = None
        self._has_ended = False
        self._reported: str = FINISHED
        """Reason for the end that is reported with a final."""
        self._last_received_at = seat.opened_at
        seat.attach(self)

    @property
    def state(self) -> SessionState:
        if self._has_ended:
            return SessionState.ENDED
        if self._stream is None:
            return SessionState.WAITING
        return SessionState.STREAMING if self._stream.state is StreamState.OPEN else SessionState.FINISHING

    @property
    def is_finishing(self) -> bool:
        """Whether audio that comes now is too late."""
        return self.state in (SessionState.FINISHING, SessionState.ENDED)

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
        """Called every 0.1 s or so, to notice what does not happen."""
        if self._has_ended:
            return
        if not self.is_finishing and (error := self.idle_error(now - self._last_received_at)):
            self.on_idle(error, now)
        elif self._stream is not None:
            self._stream.on_time(now)

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
    def write(self, event: Event) -> bool:
        """Write what the stream says; False where an Update was not sent. Final and Failed are the last."""

    @abc.abstractmethod
    def write_error(self, error: ServerError) -> None:
        """Write why a session ends that has no stream."""

    def idle_error(self, quiet_seconds: float) -> ServerError | None:
        """The error of a client that has sent nothing for so long, if that is too long."""
        if quiet_seconds <= self._idle_seconds:
            return None
        return ServerError(Code.IDLE_TIMEOUT, f"nothing was sent for {self._idle_seconds:g} s")

    def on_idle(self, error: ServerError, now: float) -> None:
        """The client has been idle for too long."""
        self.fail(error)

    def finish_unstarted(self, now: float) -> None:
        """The end is asked for before any audio came."""
        self._say(Final("", (), 0, latency_ms=0.0))

    def move(self, seconds: float) -> None:  # noqa: B027 - most APIs have no message for it
        """The server ends within so many seconds; clients that asked for it are told."""

    # How it ends

    def finish(self, now: float) -> None:
        """The audio has ended: the client gets its final. Harmless while that is under way."""
        if self.is_finishing:
            return
        if self._stream is None:
            self.finish_unstarted(now)
        else:
            self._receive(self._stream, self._input.finish(), now)
            self._stream.finish(now)

    def finish_with(self, error: ServerError, now: float) -> None:
        """Finish, for this error is no reason to lose what was said; it is reported as the reason for the end."""
        if not self.is_finishing:
            self._reported = error.code
            self.finish(now)

    def fail(self, error: ServerError) -> None:
        """Tell the client what is wrong, with the text that it may keep."""
        if self._has_ended:
            return
        if self._stream is not None:
            self._stream.fail(error.code, error.message)  # which comes back as Failed, and ends the session
        if not self._has_ended:
            self.write_error(error)
            self._end(error.code)

    def drop(self) -> None:
        """The client is gone."""
        self._end(LEFT)

    def _end(self, reason: str) -> None:
        if not self._has_ended:
            self._has_ended = True
            self.seat.end(reason)

    # Its stream

    def _begin(self, now: float) -> Stream:
        """Raises Refused."""
        self._stream = self.seat.open_stream(self._say, self._options, now)
        return self._stream

    def _transcribe(self, audio: bytes, now: float) -> int:
        """Pass audio on to the stream, which begins with it; returns how many milliseconds. Audio after the end is left out."""
        if audio:  # empty messages do not keep a session alive
            self._last_received_at = now
        if self.is_finishing:
            return 0
        pcm = self._input.take(audio)
        self._receive(self._stream or self._begin(now), pcm, now)
        return len(pcm) * 1000 // (2 * SAMPLE_RATE)

    def _receive(self, receiver: Stream, pcm: bytes, now: float) -> None:
        self.seat.count_audio(pcm)
        receiver.receive(pcm, now)

    def _say(self, event: Event) -> bool:
        sent = self.write(event)
        if isinstance(event, Final):
            self._end(self._reported)
        elif isinstance(event, Failed):
            self._end(event.code)
        return sent
