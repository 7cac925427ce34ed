"""The Wyoming transport: Home Assistant's frames over TCP, one utterance after the other."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from runtime.languages import language_of
from server.apis.wyoming import messages
from server.apis.wyoming.messages import Header
from server.apis.wyoming.session import UtteranceSession
from server.errors import ClientError, Code, ServerError
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import SLOW_SECONDS, Outbox

logger = logging.getLogger(__name__)

LINGER_SECONDS = 5.0  # time limit for writing the last messages
FIRST_SECONDS, NEXT_SECONDS = 10.0, 600.0  # limits for a client's first message, and for the next one without an utterance
MAX_CONNECTIONS = 256  # they share the process's files with those of HTTP


@contextlib.asynccontextmanager
async def serving(sessions: Sessions, metrics: Metrics, settings: Settings, listener: socket.socket) -> AsyncIterator[None]:
    """Accept connections within the context."""

    open_connections = set[WyomingConnection]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(open_connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        connection = WyomingConnection(reader, writer, sessions, metrics, settings)
        open_connections.add(connection)
        try:
            await connection.run()
        finally:
            open_connections.remove(connection)

    async with contextlib.AsyncExitStack() as within:
        await within.enter_async_context(await asyncio.start_server(accept, sock=listener, limit=messages.MAX_HEADER_BYTES))
        if settings.listen.wyoming_zeroconf:
            from server.apis.wyoming.announcement import announced  # a library that few need

            host, port = listener.getsockname()[:2]
            await within.enter_async_context(announced(settings.listen.replica_name, host, port))
        yield


class WyomingConnection:
    """One client. Only an utterance takes a place among the sessions, not the connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sessions: Sessions, metrics: Metrics, settings: Settings
    ):
        self._reader, self._writer = reader, writer
        self._sessions = sessions
        self._model_id, self._idle_seconds = settings.model.model_id, settings.session.idle_timeout_seconds
        self._outbox = Outbox(Api.WYOMING, self, metrics, asyncio.get_running_loop().time, self._give_up)
        self._seat: Seat | None = None  # seat of the current utterance
        self._utterance: UtteranceSession | None = None
        self._ends_early = False  # as requested by the last transcribe message
        self._is_answered = False  # the utterance has its transcript, and audio until audio-stop is ignored
        self._has_stopped = False  # the client has stopped the utterance
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def run(self) -> None:
        """Serve the connection until the client leaves, or gets an error."""
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                await self._read()
        finally:
            if self._seat is not None:
                self._seat.leave()
            await self._close()

    async def _close(self) -> None:
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), LINGER_SECONDS)
        except (TimeoutError, OSError):
            self._writer.transport.abort()

    async def _read(self) -> None:
        seconds: float | None = FIRST_SECONDS
        try:
            while self.is_open:
                async with asyncio.timeout(seconds):
                    line = await self._line()
                header = Header.parse(line)
                data = header.with_data(await self._reader.readexactly(header.data_bytes))
                await self._take(header.kind, data, await self._reader.readexactly(header.payload_bytes))
                await asyncio.wait_for(self._writer.drain(), SLOW_SECONDS)  # no reading from a client that does not read
                seconds = NEXT_SECONDS if self._seat is None else None  # a session has a limit of its own
        except ServerError as error:
            self._outbox.send(messages.error(error))

    async def _line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as exc:
            raise ClientError(Code.MESSAGE_TOO_LARGE, f"a header may have {messages.MAX_HEADER_BYTES} bytes") from exc

    async def _take(self, kind: str, data: Mapping[str, Any], payload: bytes) -> None:
        """Handle one message; unknown ones are ignored."""
        match kind:
            case "describe":
                self._outbox.send(messages.info(self._model_id))
            case "ping":
                self._outbox.send(messages.pong(data))
            case "transcribe":
                messages.check_transcribe(data, self._model_id)
                self._ends_early = messages.ends_early(data)
            case "audio-start":
                await self._begin(data)
            case "audio-chunk":
                await self._receive(data, payload)
            case "audio-stop":
                self._stop()

    async def _begin(self, data: Mapping[str, Any]) -> Seat:
        """Begin an utterance. An earlier one that was not stopped is finished first. Raises ServerError."""
        if self._seat is not None:
            self._seat.finish()
        await self._is_idle.wait()
        self._is_answered = self._has_stopped = False
        audio_format, language = messages.audio_format(data), language_of(self._model_id).code
        self._seat = seat = self._sessions.take_seat(Api.WYOMING, on_end=self._on_end)
        self._utterance = UtteranceSession(seat, audio_format, self._idle_seconds, language, self._outbox.send, self._ends_early)
        self._is_idle.clear()
        return seat

    async def _receive(self, data: Mapping[str, Any], payload: bytes) -> None:
        seat = self._seat
        if self._is_answered or (self._utterance is not None and self._utterance.has_ended_early):
            return
        if seat is None or seat.session.is_finishing:
            seat = await self._begin(data)
        seat.receive_audio(payload)
        await seat.until_ready()

    def _stop(self) -> None:
        self._has_stopped = True
        if self._is_answered:
            self._is_answered = False
        elif self._seat is None:
            self._outbox.send(messages.transcript("", language_of(self._model_id).code))
        else:
            self._seat.finish()

    def _on_end(self) -> None:
        """Handle the end of the utterance. After a failure nothing more is sent."""
        if self._utterance is not None and self._utterance.has_failed:
            self._writer.close()
        ended_early = self._utterance is not None and self._utterance.has_ended_early
        self._is_answered = ended_early and not self._has_stopped
        self._seat = self._utterance = None
        self._is_idle.set()

    def _give_up(self, error: ServerError) -> None:
        if self._seat is not None:
            self._seat.fail_soon(error)

    # The transport of its outbox

    @property
    def is_open(self) -> bool:
        return not self._writer.is_closing()

    @property
    def unsent_bytes(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def send(self, text: str) -> bool:
        self._writer.write(text.encode())
        return True
