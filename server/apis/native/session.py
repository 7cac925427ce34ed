"""One connection's session: from its first message to its last, whatever transport it came by.

It parses what the client sends, has a stream transcribe it, and writes what the stream says in the client's dialect. Like the
stream it reads no clock and waits for nothing.
"""

import enum
from collections.abc import Callable

from runtime.scheduler.requests import Result
from server.apis.native import messages as native
from server.apis.native.messages import Close, Flush, Init, Message, NativeDialect
from server.audio.input import AudioFormat, AudioFront
from server.errors import ClientError, Code, ServerError
from server.settings import SessionLimits
from server.stream import stream
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options, Stream

PULSE_SECONDS = 1.0


class State(enum.Enum):
    WAITING_FOR_INIT = "waiting for init"
    STREAMING = "streaming"
    CLOSING = "closing"
    ENDED = "ended"


Send = Callable[[Message], bool]
"""Takes a message for the client; False where it was dropped."""
BeginStream = Callable[[Callable[[Event], bool], Options, float], Stream]
"""say, options, now: takes a place and begins the session's stream. Raises Refused."""


class Session:
    """Ends by finish() with a final, by fail() with a reason, or by drop() in silence; on_end is called once."""

    def __init__(
        self,
        session_id: str,
        limits: SessionLimits,
        server: native.Server,
        begin_stream: BeginStream,
        send: Send,
        on_end: Callable[[], None],
        now: float,
        has_track: bool = False,
    ):
        """session_id: this server's name for the session; the client's own, `sid`, need not be unique.

        has_track: audio comes by an audio track, as PCM16 mono at 16 kHz.
        """
        self.session_id = session_id
        self.close_code, self.close_reason = 1000, ""  # of a WebSocket: the last message says what was wrong
        self._limits = limits
        self._server = server
        self._has_track = has_track
        self._begin_stream, self._send, self._on_end = begin_stream, send, on_end
        self._stream: Stream | None = None
        self._dialect: NativeDialect | None = None
        self._front: AudioFront | None = None
        self._last_heard_at = now  # when the client last sent anything
        self._has_spoken, self._spoke_at = False, now  # since the clock was last looked at; and when that was seen
        self._ended = False
        self._client_has_closed = False

    @property
    def state(self) -> State:
        if self._ended:
            return State.ENDED
        if self._stream is None:
            return State.WAITING_FOR_INIT
        return State.STREAMING if self._stream.state is stream.State.OPEN else State.CLOSING

    @property
    def waiting_seconds(self) -> float:
        return self._stream.waiting_seconds if self._stream else 0.0

    @property
    def backlog_seconds(self) -> float:
        """Audio that waits to be transcribed."""
        return self._stream.backlog_seconds if self._stream else 0.0

    # What the client does

    def on_text(self, text: str, now: float) -> None:
        """A text message."""
        if self._ended:
            return
        self._last_heard_at = now
        try:
            match native.parse_text(text):
                case Init() as init:
                    self._begin(init, now)
                case Flush():
                    self._streaming("flush").flush(now)
                case Close():
                    self._close(self._streaming("close"), now)
        except ServerError as exc:
            self.fail(exc)

    def on_audio(self, pcm: bytes, now: float) -> None:
        """A binary message, or a piece of the track, which may begin before init."""
        if self._ended:
            return
        if self._has_track:
            if self._stream is not None:
                self._last_heard_at = now
                self._stream.hear(pcm, now)
            return
        if pcm:  # empty messages do not keep a session alive
            self._last_heard_at = now
        try:
            streaming = self._streaming("audio")
            native.check_audio(pcm)
        except ClientError as exc:
            self.fail(exc)
            return
        assert self._front is not None, "it was made with the stream"
        streaming.hear(self._front.take(pcm), now)

    def still_there(self, now: float) -> None:
        """It is the server that does not read."""
        self._last_heard_at = now

    def on_result(self, result: Result, now: float) -> None:
        """The engine's answer to a request of the stream."""
        if self._stream is not None:
            self._stream.on_result(result, now)

    def on_time(self, now: float) -> None:
        """Called now and then, to notice what does not happen."""
        quiet_seconds = now - self._last_heard_at
        if self.state is State.WAITING_FOR_INIT and quiet_seconds > self._limits.init_timeout_seconds:
            self.fail(ServerError(Code.INIT_TIMEOUT, f"no init within {self._limits.init_timeout_seconds:g} s of connecting"))
        elif self.state is State.STREAMING and quiet_seconds > self._limits.idle_timeout_seconds:
            self.fail(ServerError(Code.IDLE_TIMEOUT, f"nothing was sent for {self._limits.idle_timeout_seconds:g} s"))
        elif self._stream is not None:
            self._stream.on_time(now)
        if self.state in (State.STREAMING, State.CLOSING):
            self._say_pulse(now)

    def _say_pulse(self, now: float) -> None:
        assert self._dialect is not None and self._stream is not None, "it streams"
        if self._has_spoken:
            self._spoke_at, self._has_spoken = now, False
        if self._dialect.wants_pulse and now - self._spoke_at >= PULSE_SECONDS:
            self._send(self._dialect.pulse(self._stream.closed_ms, self._stream.segments))
            self._spoke_at = now

    def move(self, seconds: float) -> None:
        """The server ends within so many seconds; whoever asked for it is told."""
        if self._dialect is not None and self._dialect.wants_moving and not self._ended:
            self._tell(self._dialect.moving(seconds))

    # How it ends

    def finish(self, now: float) -> None:
        """The server asks for the end: the client gets its final."""
        if self._stream is not None:
            self._stream.finish(now)
        else:
            self.fail(ServerError(Code.SHUTTING_DOWN, "the server is shutting down"))

    def fail(self, error: ServerError) -> None:
        """Tell the client what is wrong, with the text it may keep."""
        if self._ended:
            return
        if self._stream is not None:
            self._stream.fail(error.code, error.message)
        else:
            self._end(native.error(error))

    def drop(self) -> None:
        """The client is gone."""
        if self._ended:
            return
        self._ended = True
        if self._stream is not None:
            self._stream.drop()
        self._on_end()

    # What it does about it

    def _begin(self, init: Init, now: float) -> None:
        if self._stream is not None:
            raise ClientError(Code.ALREADY_INITIALISED, "init was sent twice; one channel carries one stream")
        self._dialect = NativeDialect(init)
        self._front = AudioFront(AudioFormat(rate=init.sr))
        self._stream = self._begin_stream(self._say, init.options, now)
        self._send(native.ready(init, self._server))
        self._spoke_at = now - PULSE_SECONDS  # the first pulse comes at once: from then on the client counts on them

    def _close(self, streaming: Stream, now: float) -> None:
        assert self._front is not None, "it was made with the stream"
        streaming.hear(self._front.finish(), now)
        streaming.finish(now)
        self._client_has_closed = True

    def _streaming(self, what: str) -> Stream:
        """Raises ClientError where the client may not send it. What crosses with the server's own finish is taken for nothing."""
        if self._stream is None:
            raise ClientError(Code.NOT_INITIALISED, f"{what} came before init")
        if self._client_has_closed:
            raise ClientError(Code.CLOSING, f"{what} came after close")
        return self._stream

    def _say(self, event: Event) -> bool:
        assert self._dialect is not None, "a stream speaks after init"
        message = self._dialect.write(event)
        if isinstance(event, Final | Failed):
            self._end(message)
            return True
        sent = self._tell(message)
        if sent:
            self._dialect.confirm(event)
        return sent

    def _tell(self, message: Message) -> bool:
        self._has_spoken = True
        return self._send(message)

    def _end(self, message: Message) -> None:
        self._ended = True
        try:
            self._send(message)
        finally:
            self._on_end()
