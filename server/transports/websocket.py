"""The WebSocket transport: any dialect, and the very messages of the data channel for networks that block UDP."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from server.audio.container import LiveDecoder
from server.errors import ServerError
from server.sessions.registry import AnySession, Sessions
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import Outbox, Unsent

LAST_MESSAGE = "CloseStream"  # Deepgram's, whose streams may be containers
LINGER_SECONDS = 5.0  # for the last messages to be written


Opening = Callable[[Callable[[Any], bool], Callable[[], None]], AnySession]
"""send, on_end: takes a place among the sessions. Raises Refused."""


class WebSocketTransport:
    """Makes connections."""

    def __init__(self, sessions: Sessions, metrics: Metrics):
        self._sessions = sessions
        self._metrics = metrics

    def open(self, socket: WebSocket, api: Api, opening: Opening, is_container: bool = False) -> "Connection":
        """Before the socket is accepted. is_container: what the client sends is decoded first. Raises Refused."""
        connection = Connection(socket, api, self._sessions, self._metrics)
        connection.session = opening(connection.outbox.send, connection.end)
        if is_container:
            connection.decode()
        return connection


class Connection:
    """One socket and the session behind it."""

    def __init__(self, socket: WebSocket, api: Api, sessions: Sessions, metrics: Metrics):
        self._socket = socket
        self._sessions = sessions
        self.session: AnySession | None = None
        self._decoder: LiveDecoder | None = None
        self._unsent = Unsent()
        self.outbox = Outbox(api, self._unsent, metrics, asyncio.get_running_loop().time, self._give_up)
        self.end = self._unsent.end

    def decode(self) -> None:
        """From now on what the client sends is a container, in pieces."""
        session = self.session
        assert session is not None, "it was opened first"

        async def hear(pcm: bytes) -> None:
            self._sessions.audio(session, pcm)
            await self._sessions.until_heard(session)

        self._decoder = LiveDecoder(hear, session.fail)

    async def run(self, subprotocol: str | None = None, headers: Mapping[str, str] = {}) -> None:
        """Until the client has left, or the session's last message is written."""
        try:
            await self._socket.accept(subprotocol, [(name.encode(), value.encode()) for name, value in headers.items()])
            reading, writing = asyncio.create_task(self._read()), asyncio.create_task(self._write())
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            self.end()
            await asyncio.wait({writing}, timeout=LINGER_SECONDS)  # a client that does not read is not waited for
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
        finally:
            self._leave()

    async def _read(self) -> None:
        assert self.session is not None, "it was opened first"
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            if (text := message.get("text")) is not None:
                await self._take_text(self.session, text)
            elif self._decoder is not None:
                self._sessions.piece(self.session)
                await self._decoder.take(message["bytes"])
            else:
                self._sessions.audio(self.session, message["bytes"])
            await self._sessions.until_heard(self.session)

    async def _take_text(self, session: AnySession, text: str) -> None:
        if self._decoder is not None and LAST_MESSAGE in text:
            await self._decoder.finish()
        self._sessions.text(session, text)

    async def _write(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has gone meanwhile
            while (text := await self._unsent.next()) is not None:
                await self._socket.send_text(text)
            assert self.session is not None, "it was opened first"
            await self._socket.close(self.session.close_code, self.session.close_reason)

    def _leave(self) -> None:
        if self._decoder is not None:
            self._decoder.stop()
        if self.session is not None:
            self._sessions.leave(self.session)

    def _give_up(self, error: ServerError) -> None:
        """Failing sends one more message, so it must not happen inside the sending of another."""
        if self.session is not None:
            asyncio.get_running_loop().call_soon(self.session.fail, error)
