"""A session in Deepgram's Flux dialect: turns, and the probability that they are over. Reads no clock and waits for nothing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from server.apis.deepgram import flux_query, messages
from server.apis.deepgram.flux_query import FluxParameters
from server.apis.deepgram.flux_turns import FluxTurns, TurnInfo
from server.apis.json_text import JsonMessage
from server.errors import ClientError, Code, ServerError
from server.sessions.session import INTERNAL_ERROR, SeatInterface, Session
from server.stream.events import Event, Failed, Update

SILENT_SECONDS = 60.0  # longest time without audio: clients of Flux send nothing to stay connected
PIECES_A_SECOND = 10  # audio is handled in pieces: a message may contain several pauses
CODES = {
    Code.BAD_MESSAGE: "UNPARSABLE_CLIENT_MESSAGE",
    Code.IDLE_TIMEOUT: "NET-0001",
    Code.ENGINE_FAILED: "NET-0000",
    Code.INVALID_FILE: "DATA-0000",
}
"""Deepgram's names of errors; others have this server's names, in capital letters."""
DROPPED = ("Update",)  # events that may be dropped if the client reads too slowly

Send = Callable[[JsonMessage], bool]


class FluxSession(Session):
    """Sends Connected first, and ends with the stream."""

    def __init__(self, seat: SeatInterface, parameters: FluxParameters, model_id: str, send: Send):
        super().__init__(seat, SILENT_SECONDS, parameters.audio_format, parameters.options)
        self._send, self._parameters, self._model_id = send, parameters, model_id
        self._turns = FluxTurns(parameters.thresholds)
        self._messages, self._received_ms = 0, 0
        self._say_message({"type": "Connected", "turn_detection": seat.evidence_of_turns})

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse_message(text)
        match message.get("type"):
            case "Configure":
                self._configure(message)
            case "ForceEndTurn":
                if self._stream is not None and not self.is_finishing:
                    self._turns.force()
                    self._stream.flush(now)
            case "CloseStream":
                self.finish(now)
            case "KeepAlive":
                pass
            case _:
                self.fail(ClientError(Code.BAD_MESSAGE, "a text message must be a JSON object with a known type"))

    def read_audio(self, audio: bytes, now: float) -> None:
        size = self._parameters.audio_format.rate // PIECES_A_SECOND * self._parameters.audio_format.frame_bytes
        for start in range(0, max(1, len(audio)), size):
            self._read_piece(audio[start : start + size], now)

    def _read_piece(self, audio: bytes, now: float) -> None:
        self._received_ms += self._transcribe(audio, now)
        if self._stream is None or self.is_finishing:
            return
        was_ending = self._turns.trigger is not None
        covered_ms = self._received_ms - round(1000 * self._stream.waiting_seconds)
        self._write_turns(self._turns.receive(self._received_ms, covered_ms, self._stream.turns.evidence))
        if self._turns.trigger is not None and not was_ending:
            self._stream.flush(now)

    def _configure(self, message: Mapping[str, Any]) -> None:
        try:
            self._parameters = flux_query.configured(self._parameters, message, self._model_id)
        except ClientError as error:
            code = f"CONFIGURE_{str(error.parameter).upper()}_INVALID"
            self._say_message({"type": "ConfigureFailure", "code": code, "description": error.message})
            return
        self._turns.thresholds = self._parameters.thresholds
        self._change(replace(self._options, terms=self._parameters.terms))
        thresholds = {name: value for name, value in asdict(self._parameters.thresholds).items() if value is not None}
        keyterms = [term.text for term in self._parameters.terms]
        self._say_message({"type": "ConfigureSuccess", "thresholds": thresholds, "keyterms": keyterms})

    def on_idle(self, error: ServerError, now: float) -> None:
        """Transcribe the received audio to its end."""
        if self._streams:
            self.close_code, self.close_reason = INTERNAL_ERROR, CODES[Code.IDLE_TIMEOUT]
            self.finish_with(error, now)
        else:
            self.fail(error)

    def write(self, event: Event, channel: int) -> bool:
        if isinstance(event, Failed):
            self.write_error(ServerError(event.code, event.message))
            return True
        return self._write_turns(self._turns.write(event), event.latency_ms if isinstance(event, Update) else None)

    def write_error(self, error: ServerError) -> None:
        self.close_code = INTERNAL_ERROR
        code = CODES.get(error.code, error.code.value.upper())
        self._say_message({"type": "Error", "code": code, "description": error.message})

    def _write_turns(self, infos: Iterable[TurnInfo], latency_ms: float | None = None) -> bool:
        sent = [self._say_message({"type": "TurnInfo"} | info.fields, latency_ms) for info in infos]
        if not all(sent):
            self._turns.take_back()
        return all(sent)

    def _say_message(self, fields: Mapping[str, Any], latency_ms: float | None = None) -> bool:
        numbered = dict(fields) | {"request_id": self._parameters.request_id, "sequence_id": self._messages}
        sent = self._send(JsonMessage(numbered, fields.get("event") in DROPPED, latency_ms))
        self._messages += sent
        return sent
