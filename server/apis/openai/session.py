"""One connection's session in OpenAI's Realtime dialect: many turns, one stream. Reads no clock and waits for nothing."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from runtime.languages import language_of
from server.apis.json_object import parse_object
from server.apis.openai import messages as realtime
from server.apis.openai import shapes as realtime_shapes
from server.apis.openai.messages import Configuration, Items, ServerEvent
from server.apis.openai.shapes import ENDED, Present
from server.audio.input import HEARD, AudioFront
from server.errors import ClientError, Code, ServerError
from server.settings import SessionLimits
from server.stream.events import Event, Failed, Final, Flushed
from server.stream.stream import Options, Stream

MAX_TEXT_CHARACTERS = 20 * 1024 * 1024  # an append may have 15 MiB of audio
ABNORMAL, NORMAL = 1011, 1000  # RFC 6455, 7.4.1
Send = Callable[[ServerEvent], bool]
BeginNamedStream = Callable[[str, Callable[[Event], bool], Options, float], tuple[Stream, Callable[[], None]]]
"""stream_id, say, options, now: a stream, and what forgets it. Raises ServerError."""


class RealtimeSession:
    """Ends when the client leaves, by fail() with a reason, or by drop() in silence; on_end is called once."""

    def __init__(
        self,
        session_id: str,
        limits: SessionLimits,
        model_id: str,
        begin_stream: BeginNamedStream,
        send: Send,
        on_end: Callable[[], None],
        now: float,
        has_track: bool = False,
    ):
        """has_track: audio comes by an audio track, as PCM16 mono at 16 kHz."""
        self.session_id = session_id
        self.close_code, self.close_reason = NORMAL, ""
        self._limits = limits
        self._begin_stream, self._send, self._on_end = begin_stream, send, on_end
        self._language = language_of(model_id).code
        self._configuration, self._items = Configuration(model_id), Items(self._language)
        self._shape = Present()
        self._has_track = has_track
        self._stream: Stream | None = None
        self._forget_stream: Callable[[], None] = lambda: None
        self._front: AudioFront | None = None
        self._streams = 0
        self._has_new_audio = False  # since the last commit
        self._last_heard_at = now
        self._has_ended = False

    @property
    def waiting_seconds(self) -> float:
        return self._stream.waiting_seconds if self._stream else 0.0

    @property
    def backlog_seconds(self) -> float:
        return self._stream.backlog_seconds if self._stream else 0.0

    def begin(self, configuration: object | None = None, shape: Present | None = None) -> None:
        """The server speaks first. configuration: a session object as clients send it. Raises ClientError."""
        self._shape = shape or self._shape
        if configuration is not None:
            self._configuration.update(configuration)
        self._say_session("created")

    def on_text(self, text: str, now: float) -> None:
        if self._has_ended:
            return
        self._last_heard_at = now
        event_id = None
        try:
            message = parse(text)
            event_id = message.get("event_id")
            self._shape = realtime_shapes.recognised(message, self._shape)
            if (meant := self._shape.read(message)) is not None:
                self._take(meant, now)
        except ClientError as error:
            self._tell(realtime.error_event(error, event_id))
        except ServerError as error:
            self.fail(error)

    def on_audio(self, pcm: bytes, now: float) -> None:
        """Of a track; otherwise audio comes in text messages."""
        if self._has_ended:
            return
        if self._has_track:
            self._last_heard_at = now
            try:
                self._hear(pcm, now)
            except ServerError as error:
                self.fail(error)
        else:
            self._tell(realtime.error_event(ClientError(Code.BAD_MESSAGE, "messages are JSON; audio is base64 in them")))

    def still_there(self, now: float) -> None:
        """It is the server that does not read."""
        self._last_heard_at = now

    def _tell(self, event: ServerEvent) -> None:
        for known in self._shape.write(event):
            self._send(known)

    def _take(self, message: Mapping[str, Any], now: float) -> None:
        match message.get("type"):
            case "session.update":
                self._update(message.get("session"))
            case "input_audio_buffer.append":
                self._append(message.get("audio"), now)
                if message.get("is_last_of_turn"):
                    self._commit(now)
            case "input_audio_buffer.commit":
                self._commit(now)
            case "input_audio_buffer.clear":
                self._clear()
            case "finish":
                self.finish(now)

    def _update(self, session: object) -> None:
        before = self._configuration.audio_format
        self._configuration.update(session)
        if self._front is not None and self._configuration.audio_format != before:
            self._front = self._new_front()
        if self._stream is not None:
            self._stream.ask(self._configuration.options)
        self._say_session("updated")

    def _new_front(self) -> AudioFront:
        return AudioFront(HEARD if self._has_track else self._configuration.audio_format)

    def _append(self, audio: object, now: float) -> None:
        if self._has_track:
            raise ClientError(Code.BAD_MESSAGE, "audio comes by the audio track of this call")
        try:
            data = base64.b64decode(str(audio), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ClientError(Code.INVALID_VALUE, "audio must be base64", "audio") from exc
        self._hear(data, now)

    def _hear(self, data: bytes, now: float) -> None:
        if self._stream is None:
            self._begin(now)
        assert self._front is not None and self._stream is not None, "they are begun together"
        self._has_new_audio = True
        if self._configuration.options.silence_seconds is None:
            self._items.open()
        self._stream.hear(self._front.take(data), now)

    def _begin(self, now: float) -> None:
        self._streams += 1
        self._front = self._new_front()
        stream_id = f"{self.session_id}.{self._streams}"
        self._stream, self._forget_stream = self._begin_stream(stream_id, self._say, self._configuration.options, now)

    def _commit(self, now: float) -> None:
        """With turn detection the audio may all be committed already: that is no error."""
        if self._stream is None or not self._has_new_audio:
            if self._configuration.options.silence_seconds is None:
                raise ClientError(Code.COMMIT_EMPTY, "the buffer has no audio that is not committed")
            return
        self._has_new_audio = False
        if self._items.is_open:
            for event in self._items.commit():
                self._tell(event)
            self._stream.flush(now)

    def _clear(self) -> None:
        """What is not committed was never said."""
        self._drop_stream()
        self._stream, self._front, self._items, self._has_new_audio = None, None, Items(self._language), False
        self._tell(realtime.event_of("input_audio_buffer.cleared"))

    def _say(self, event: Event) -> bool:
        if isinstance(event, Failed):
            self.close_code = ABNORMAL
            self._end(realtime.error_event(ServerError(event.code, event.message)))
        elif isinstance(event, Final):
            if self._items.is_open:
                for written in self._items.commit():
                    self._tell(written)
            for _ in range(self._items.awaited):  # the first has all the text that there is
                self._say(Flushed(event.text, event.segments, event.audio_ms, event.latency_ms))
            self._tell(realtime.event_of(ENDED))
            self._end(None)
        else:
            for written in self._items.write(event, self._configuration.prefix_ms):
                self._tell(written)
        return True

    def _say_session(self, what: str) -> None:
        session = self._configuration.as_json()
        self._tell(realtime.event_of(f"session.{what}", id=session["id"], session=session))  # vLLM's clients print the id

    # A member of the sessions

    def on_time(self, now: float) -> None:
        if now - self._last_heard_at > self._limits.idle_timeout_seconds:
            self.fail(ServerError(Code.IDLE_TIMEOUT, f"nothing was sent for {self._limits.idle_timeout_seconds:g} s"))
        elif self._stream is not None:
            self._stream.on_time(now)

    def finish(self, now: float) -> None:
        """The server asks for the end: what was said so far is completed."""
        if self._stream is None:
            self._tell(realtime.event_of(ENDED))
            self._end(None)
        else:
            self._stream.finish(now)

    def fail(self, error: ServerError) -> None:
        if self._stream is not None:
            self._stream.fail(error.code, error.message)
        if not self._has_ended:
            self.close_code = ABNORMAL
            self._end(realtime.error_event(error))

    def drop(self) -> None:
        self._drop_stream()
        self._end(None)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.drop()
        self._forget_stream()

    def _end(self, last: ServerEvent | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._forget_stream()
        if last is not None:
            self._tell(last)
        self._on_end()


def parse(text: str) -> dict[str, Any]:
    """Raises ClientError."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ClientError(Code.MESSAGE_TOO_LARGE, f"a message may have {MAX_TEXT_CHARACTERS} characters")
    return parse_object(text, "a message")
