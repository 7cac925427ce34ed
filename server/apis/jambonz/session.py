"""A call of jambonz: one speaker, from `start` to `stop`. Reads no clock and waits for nothing."""

from collections.abc import Callable, Iterator

from server.apis.jambonz import messages
from server.apis.jambonz.messages import Start
from server.apis.json_text import JsonMessage
from server.apis.utterances import Utterance, Utterances
from server.audio.input import AudioInput
from server.errors import ClientError, Code, ServerError
from server.sessions.session import SeatInterface, Session
from server.settings import SessionLimits
from server.stream.events import Event, Failed

Send = Callable[[JsonMessage], bool]


class JambonzSession(Session):
    """Takes its place with its first audio, and closes the connection after the last text, as jambonz expects."""

    def __init__(self, seat: SeatInterface, limits: SessionLimits, model_id: str, send: Send):
        super().__init__(seat, limits.idle_timeout_seconds)
        self._model_id, self._send = model_id, send
        self._start: Start | None = None
        self._utterances = Utterances()

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse(text)
        match message.get("type"):
            case "start" if self._start is None:
                self._start = messages.parse_start(message, self._model_id)
                self._options, self._input = self._start.options, AudioInput(self._start.audio_format)
            case "start":
                raise ClientError(Code.ALREADY_INITIALISED, "start was sent twice")
            case "stop":
                self.finish(now)

    def read_audio(self, audio: bytes, now: float) -> None:
        if self._start is None:
            raise ClientError(Code.NOT_INITIALISED, "audio came before start")
        self._transcribe(audio, now)

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Failed):
            self.write_error(ServerError(event.code, event.message))
            return True
        return all([self._send(messages.transcription(each, self._language)) for each in self._wanted(event)])

    def _wanted(self, event: Event) -> Iterator[Utterance]:
        interims = self._start is not None and self._start.interims
        return (each for each in self._utterances.read(event) if each.is_final or interims)

    @property
    def _language(self) -> str:
        return self._start.language if self._start is not None else ""

    def write_error(self, error: ServerError) -> None:
        self._send(messages.error(error))
