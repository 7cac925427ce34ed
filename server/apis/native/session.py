"""A session in the server's own protocol, over any transport. It reads no clock and waits for nothing."""

from collections.abc import Callable
from dataclasses import replace

from server.apis import text_options
from server.apis.native import messages
from server.apis.native.messages import Close, Flush, Init, Message, SetKeyterms
from server.apis.native.writer import NativeWriter
from server.audio.input import MONO_16_KHZ, AudioFormat, AudioInput
from server.errors import ClientError, Code, ServerError
from server.sessions.session import SeatInterface, Session, SessionState
from server.settings import SessionLimits
from server.stream.events import Event, Failed, Final
from server.stream.stream import Stream

PULSE_SECONDS = 1.0

Send = Callable[[Message], bool]
"""Takes a message for the client; returns False if it was dropped."""


class NativeSession(Session):
    """Takes its place with init. The client's own name for the session, `sid`, need not be unique."""

    def __init__(self, seat: SeatInterface, limits: SessionLimits, server: messages.Server, send: Send, has_track: bool = False):
        """Make a session that begins with init. has_track: audio comes by an audio track, as PCM16 mono at 16 kHz."""
        super().__init__(seat, limits.idle_timeout_seconds)
        self._limits, self._server, self._send, self._has_track = limits, server, send, has_track
        self._asked: Init | None = None
        self._writers: list[NativeWriter] = []
        self._has_written, self._wrote_at = False, seat.opened_at  # since the last tick; time of the tick that noticed it
        self._client_has_closed = False

    # What the client does

    def read_text(self, text: str, now: float) -> None:
        match messages.parse_text(text):
            case Init() as init:
                self._init(init, now)
            case SetKeyterms(keyterms):
                self._streaming("keyterms")
                self._change(replace(self._options, terms=messages.checked_terms(keyterms)))
            case Flush():
                for stream in self._streaming("flush"):
                    stream.flush(now)
            case Close():
                self._streaming("close")
                self.finish(now)
                self._client_has_closed = True

    def read_audio(self, audio: bytes, now: float) -> None:
        if self._has_track:
            if self._streams:  # the track may begin before init
                self._transcribe(audio, now)
            return
        self._streaming("audio")
        messages.check_audio(audio)
        self._transcribe(audio, now)

    def on_time(self, now: float) -> None:
        super().on_time(now)
        if self.state in (SessionState.STREAMING, SessionState.FINISHING):
            self._write_pulse(now)

    def _init(self, init: Init, now: float) -> None:
        if self._streams:
            raise ClientError(Code.ALREADY_INITIALISED, "init was sent twice; one connection carries one session")
        if self._has_track and init.channels > 1:
            raise ClientError(Code.BAD_MESSAGE, "channels: an audio track is mixed into one; send PCM16 for more")
        text_options.check_language(init.options.text, self._server.model_id)
        self._asked, self._options = init, init.options
        self._writers = [NativeWriter(init, channel) for channel in range(init.channels)]
        audio_format = MONO_16_KHZ if self._has_track else AudioFormat(rate=init.sr, channels=init.channels)
        self._input = AudioInput(audio_format, is_split=True)
        self._begin(now)
        self._send(messages.ready(init, self._server, self.seat.frame_ms))
        self._wrote_at = now - PULSE_SECONDS  # the first pulse comes at once: from then on the client relies on them

    def _streaming(self, what: str) -> tuple[Stream, ...]:
        """Return the streams. Raises ClientError if the client may not send this now.

        Messages that cross with the server's own finish are ignored.
        """
        if not self._streams:
            raise ClientError(Code.NOT_INITIALISED, f"{what} came before init")
        if self._client_has_closed:
            raise ClientError(Code.CLOSING, f"{what} came after close")
        return self._streams

    # What the server does

    def idle_error(self, quiet_seconds: float) -> ServerError | None:
        if self.state is not SessionState.WAITING:
            return super().idle_error(quiet_seconds)
        if quiet_seconds <= self._limits.init_timeout_seconds:
            return None
        return ServerError(Code.INIT_TIMEOUT, f"no init within {self._limits.init_timeout_seconds:g} s of connecting")

    def finish_unstarted(self, now: float) -> None:
        self.fail(ServerError(Code.SHUTTING_DOWN, "the server is shutting down"))

    def move(self, seconds: float) -> None:
        if self._asked is not None and self._asked.moving and self.state is not SessionState.ENDED:
            self._send_message(messages.moving(self._asked, seconds))

    # What it writes

    def write(self, event: Event, channel: int) -> bool:
        writer = self._writers[channel]
        sent = self._send_message(writer.write(event))
        if sent and not isinstance(event, Final | Failed):
            writer.confirm(event)
        return sent

    def write_error(self, error: ServerError) -> None:
        self._send(messages.error(error))

    def _write_pulse(self, now: float) -> None:
        assert self._asked is not None, "it streams"
        if self._has_written:
            self._wrote_at, self._has_written = now, False
        if self._asked.pulse and now - self._wrote_at >= PULSE_SECONDS:
            channels = zip(self._writers, self._streams, strict=True)
            told_ms = min(writer.told_ms(stream.closed_ms, stream.segments) for writer, stream in channels)
            self._send(messages.pulse(self._asked, told_ms))
            self._wrote_at = now

    def _send_message(self, message: Message) -> bool:
        self._has_written = True
        return self._send(message)
