"""The Wyoming transport: Home Assistant's frames over TCP, one utterance after the other."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from runtime.languages import language_of
from server.apis.wyoming import messages as wyoming
from server.apis.wyoming.messages import Header
from server.apis.wyoming.session import WyomingSession
from server.errors import ClientError, Code, ServerError
from server.sessions.registry import Sessions
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import SLOW_SECONDS, Outbox

logger = logging.getLogger(__name__)

LINGER_SECONDS = 5.0  # for the last messages to be written


@contextlib.asynccontextmanager
async def serving(sessions: Sessions, metrics: Metrics, model_id: str, listener: socket.socket | None) -> AsyncIterator[None]:
    """Accepts connections within the context, if there is a listener."""
    if listener is None:
        yield
        return

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer, sessions, metrics, model_id).run()

    async with await asyncio.start_server(accept, sock=listener, limit=wyoming.MAX_HEADER_BYTES):
        yield


class Connection:
    """One client. Only an utterance takes a place among the sessions, not the connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sessions: Sessions, metrics: Metrics, model_id: str
    ):
        self._reader, self._writer = reader, writer
        self._sessions = sessions
        self._model_id = model_id
        self._outbox = Outbox(Api.WYOMING, self, metrics, asyncio.get_running_loop().time, self._give_up)
        self._utterance: WyomingSession | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def run(self) -> None:
        """Until the client leaves, or is told what is wrong."""
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                await self._read()
        finally:
            if self._utterance is not None:
                self._sessions.leave(self._utterance)
            await self._close()

    async def _close(self) -> None:
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), LINGER_SECONDS)
        except (TimeoutError, OSError):
            self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while self.is_open:
                header = Header.parse(await self._line())
                data = header.with_data(await self._reader.readexactly(header.data_bytes))
                await self._take(header.kind, data, await self._reader.readexactly(header.payload_bytes))
                await asyncio.wait_for(self._writer.drain(), SLOW_SECONDS)  # who does not read is not read
        except ServerError as error:
            self._outbox.send(wyoming.error(error))

    async def _line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as exc:
            raise ClientError(Code.MESSAGE_TOO_LARGE, f"a header may have {wyoming.MAX_HEADER_BYTES} bytes") from exc

    async def _take(self, kind: str, data: Mapping[str, Any], payload: bytes) -> None:
        """What is not known is left alone."""
        match kind:
            case "describe":
                self._outbox.send(wyoming.info(self._model_id))
            case "ping":
                self._outbox.send(wyoming.pong(data))
            case "transcribe":
                wyoming.check_transcribe(data, self._model_id)
            case "audio-start":
                await self._begin(data)
            case "audio-chunk":
                await self._hear(data, payload)
            case "audio-stop":
                self._stop()

    async def _begin(self, data: Mapping[str, Any]) -> None:
        """One utterance after the other: one that was not stopped is finished first. Raises ServerError."""
        if self._utterance is not None:
            self._sessions.finish(self._utterance)
        await self._is_idle.wait()
        audio_format = wyoming.audio_format(data)
        self._utterance = self._sessions.open_wyoming(audio_format, self._outbox.send, self._on_end)
        self._is_idle.clear()

    async def _hear(self, data: Mapping[str, Any], payload: bytes) -> None:
        if self._utterance is None or self._utterance.is_finishing:
            await self._begin(data)
        if (utterance := self._utterance) is not None:
            self._sessions.audio(utterance, payload)
            await self._sessions.until_heard(utterance)

    def _stop(self) -> None:
        if self._utterance is None:
            self._outbox.send(wyoming.transcript("", language_of(self._model_id).code))
        else:
            self._sessions.finish(self._utterance)

    def _on_end(self) -> None:
        """Of an utterance. After a failure nothing more is said."""
        if self._utterance is not None and self._utterance.has_failed:
            self._writer.close()
        self._utterance = None
        self._is_idle.set()

    def _give_up(self, error: ServerError) -> None:
        """Failing sends one more message, so it must not happen inside the sending of another."""
        if self._utterance is not None:
            asyncio.get_running_loop().call_soon(self._utterance.fail, error)

    # The wire of its outbox

    @property
    def is_open(self) -> bool:
        return not self._writer.is_closing()

    @property
    def unsent_bytes(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def send(self, text: str) -> bool:
        self._writer.write(text.encode())
        return True
