"""A Vosk recognizer: it answers each message of audio with the text so far or a whole utterance. It reads no clock."""

from collections.abc import Callable
from dataclasses import dataclass

from server.apis.json_text import JsonMessage
from server.apis.vosk import messages
from server.audio.input import AudioFormat, AudioInput
from server.errors import ServerError
from server.sessions.session import INTERNAL_ERROR, SeatInterface, Session, close_reason_of
from server.settings import SessionLimits
from server.stream.events import Event, Failed, Final, Flushed, Update
from server.stream.word_times import Word

Send = Callable[[JsonMessage], bool]


@dataclass(frozen=True)
class Said:
    """An utterance that waits for a message to answer."""

    text: str
    words: tuple[Word, ...]


class VoskSession(Session):
    """Ends with the answer to `eof`. Vosk has no messages for errors: the close frame has the reason."""

    def __init__(self, seat: SeatInterface, limits: SessionLimits, send: Send):
        audio_format = AudioFormat(rate=messages.DEFAULT_RATE)
        super().__init__(seat, limits.idle_timeout_seconds, audio_format, messages.parse_options({}))
        self._send = send
        self._partial = ""
        self._said: list[Said] = []
        self._first_character, self._first_segment = 0, 0  # start of the open utterance

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse(text)
        config = message.get("config")
        if isinstance(config, dict) and not self._streams:
            self._input = AudioInput(messages.parse_format(config))
            self._options = messages.parse_options(config)
        if message.get("eof"):
            self.finish(now)

    def read_audio(self, audio: bytes, now: float) -> None:
        self._transcribe(audio, now)
        if self._said:
            self._send_result()
        elif not self.is_finishing:
            self._send(messages.partial(self._partial))

    def write(self, event: Event, channel: int) -> bool:
        match event:
            case Update():
                self._partial = event.text[self._first_character :].strip()
            case Flushed():
                self._close(event)
            case Final():
                self._close(event)
                return self._send_result()
            case Failed():
                self.write_error(ServerError(event.code, event.message))
        return True

    def _send_result(self) -> bool:
        """Send all utterances that wait, in one message: each message of audio has exactly one answer."""
        said, self._said = self._said, []
        return self._send(messages.result(" ".join(each.text for each in said), [word for each in said for word in each.words]))

    def _close(self, event: Flushed | Final) -> None:
        """Store the utterance that has ended."""
        if text := event.text[self._first_character :].strip():
            segments = event.segments[self._first_segment :]
            self._said.append(Said(text, tuple(word for segment in segments for word in segment.words or ())))
        self._partial = ""
        self._first_character, self._first_segment = len(event.text), len(event.segments)

    def write_error(self, error: ServerError) -> None:
        if self._said:
            self._send_result()
        self.close_code = INTERNAL_ERROR
        self.close_reason = close_reason_of(error)
