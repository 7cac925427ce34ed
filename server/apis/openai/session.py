"""A session in OpenAI's Realtime dialect: many turns, one stream. Reads no clock and waits for nothing."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from runtime.languages import language_of
from server.apis.json_object import parse_object
from server.apis.openai import messages, shapes
from server.apis.openai.messages import Configuration, Items, ServerEvent
from server.apis.openai.shapes import ENDED, CurrentShape
from server.audio.input import MONO_16_KHZ, AudioInput
from server.errors import ClientError, Code, ServerError
from server.sessions.record import FINISHED
from server.sessions.session import INTERNAL_ERROR, SeatInterface, Session
from server.stream.events import Event, Failed, Final, Flushed
from server.stream.stream import Stream

MAX_TEXT_CHARACTERS = 20 * 1024 * 1024 + 4096  # an append may have 15 MiB of audio, with the JSON around it
Send = Callable[[ServerEvent], bool]


class RealtimeSession(Session):
    """Ends also when the client leaves. The server sends the first message."""

    def __init__(
        self,
        seat: SeatInterface,
        idle_seconds: float,
        configuration: Configuration,
        send: Send,
        shape: CurrentShape | None = None,
        has_track: bool = False,
    ):
        """Make a session and send session.created. has_track: audio comes by an audio track, as PCM16 mono at 16 kHz."""
        super().__init__(seat, idle_seconds)
        self._configuration, self._send, self._has_track = configuration, send, has_track
        self._items = Items(language_of(configuration.model_id).code)
        self._completing: dict[str, tuple[Stream, Items]] = {}
        """Streams from before a clear, by their ids, until the turns that were committed to them have their texts."""
        self._shape = shape or CurrentShape()
        self._has_new_audio = False  # since the last commit
        self._has_final = False
        self._input = self._new_input()
        self._write_session("created")

    # What the client does

    def read_text(self, text: str, now: float) -> None:
        event_id = None
        try:
            message = parse(text)
            event_id = message.get("event_id")
            self._shape = shapes.recognised(message, self._shape)
            if (meant := self._shape.read(message)) is not None:
                self._take(meant, now)
        except ClientError as error:  # which does not end the session
            self._write(messages.error_event(error, event_id))

    def read_audio(self, audio: bytes, now: float) -> None:
        if self._has_track:
            self._take_audio(audio, now)
        else:
            self._write(messages.error_event(ClientError(Code.BAD_MESSAGE, "messages are JSON; audio is base64 in them")))

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
        audio_format = self._configuration.audio_format
        if self._configuration.update(session):
            self.seat.count_change()
            if self._configuration.audio_format != audio_format:
                self._input = self._new_input()
            if self._stream is not None:
                self._stream.ask(self._configuration.options)
        self._write_session("updated")

    def _new_input(self) -> AudioInput:
        return AudioInput(MONO_16_KHZ if self._has_track else self._configuration.audio_format)

    def _append(self, audio: object, now: float) -> None:
        if self._has_track:
            raise ClientError(Code.BAD_MESSAGE, "audio comes by the audio track of this call")
        try:
            data = base64.b64decode(str(audio), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ClientError(Code.INVALID_VALUE, "audio must be base64", "audio") from exc
        self._take_audio(data, now)

    def _take_audio(self, data: bytes, now: float) -> None:
        self._has_new_audio = True
        if self._commits_itself:
            self._items.open()
        self._items.received_ms += self._transcribe(data, now)

    @property
    def _commits_itself(self) -> bool:
        """Whether the client itself commits its turns."""
        return self._configuration.options.silence_seconds is None

    def _begin(self, now: float) -> None:
        items = self._items
        begun = self.seat.open_stream(lambda event: self._say_of(items, begun.stream_id, event), self._configuration.options, now)
        self._streams = (begun,)

    def _commit(self, now: float) -> None:
        """Commit the audio. If turns are detected it may all be committed already, which is no error."""
        if self._stream is None or not self._has_new_audio:
            if self._commits_itself:
                raise ClientError(Code.COMMIT_EMPTY, "the buffer has no audio that is not committed")
            return
        self._has_new_audio = False
        if self._items.is_open:
            for event in self._items.commit():
                self._write(event)
            self._stream.flush(now)

    def _clear(self) -> None:
        """Discard audio that is not committed; committed turns are completed."""
        if self._stream is not None:
            if self._items.awaited:
                self._completing[self._stream.stream_id] = (self._stream, self._items)
            else:
                self.seat.close_stream(self._stream)
        self._items = self._items.after_clear()
        self._streams, self._input, self._has_new_audio = (), self._new_input(), False
        self._write(messages.event_of("input_audio_buffer.cleared"))

    # What the server does

    def on_time(self, now: float) -> None:
        super().on_time(now)
        for completing, _ in list(self._completing.values()):
            completing.on_time(now)

    def finish_unstarted(self, now: float) -> None:
        self._has_final = True
        self._end_when_completed()

    # What it writes

    def _say_of(self, items: Items, stream_id: str, event: Event) -> bool:
        """Write an event of a stream: the present one, or one from before a clear."""
        if items is self._items:
            return self._say(event)
        if isinstance(event, Failed):
            self.fail(ServerError(event.code, event.message))
        else:
            self._write_turns(items, event)
        if not items.awaited and (completed := self._completing.pop(stream_id, None)):
            self.seat.close_stream(completed[0])
            self._end_when_completed()
        return True

    def _say(self, event: Event, channel: int = 0) -> bool:
        if isinstance(event, Final):
            self.write(event, channel)
            self._has_final = True
            self._end_when_completed()
            return True
        return super()._say(event, channel)

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Failed):
            self.write_error(ServerError(event.code, event.message))
        elif isinstance(event, Final):
            self._write_final(event)
        else:
            self._write_turns(self._items, event)
        return True

    def _write_final(self, final: Final) -> None:
        if self._items.is_open:
            for written in self._items.commit():
                self._write(written)
        for _ in range(self._items.awaited):  # the first one gets all the text that there is
            self._write_turns(self._items, Flushed(final.text, final.segments, final.audio_ms, final.latency_ms))

    def _write_turns(self, items: Items, event: Event) -> None:
        for written in items.write(event, self._configuration.prefix_ms):
            self._write(written)

    def _end_when_completed(self) -> None:
        if self._has_final and not self._completing and not self._has_ended:
            self._write(messages.event_of(ENDED))
            self._end(FINISHED)

    def write_error(self, error: ServerError) -> None:
        self.close_code = INTERNAL_ERROR
        self._write(messages.error_event(error))

    def _write_session(self, what: str) -> None:
        session = self._configuration.as_json()
        self._write(messages.event_of(f"session.{what}", id=session["id"], session=session))  # vLLM's clients print the id

    def _write(self, event: ServerEvent) -> None:
        for known in self._shape.write(event):
            self._send(known)


def parse(text: str) -> dict[str, Any]:
    """Raises ClientError."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ClientError(Code.MESSAGE_TOO_LARGE, f"a message may have {MAX_TEXT_CHARACTERS} characters")
    return parse_object(text, "a message")
