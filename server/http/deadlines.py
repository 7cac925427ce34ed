"""Requests in time: whoever sends a head or a body too slowly loses the connection, and takes nobody else's."""

import asyncio
import time
from typing import Any

from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ClientError, Code

HEAD_SECONDS = 10.0
BODY_SECONDS, SLOWEST_BYTES_PER_SECOND = 15.0, 1000.0  # so long for a body, and longer for what comes at such a rate
MAX_CONNECTIONS = 4096  # those of WebSockets included; more are not answered


class PunctualHttp(HttpToolsProtocol):
    """uvicorn's, which waits for a head for ever, and behind a stray byte for the next one."""

    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_idle = self.cycle is not None and self.cycle.response_complete and not self.pipeline
        if is_idle and self.timeout_keep_alive_task is None and self._head_due is None and not self.transport.is_closing():
            self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._have_head()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        self._have_head()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """An idle connection, with nothing begun, is uvicorn's to close."""
        self._have_head()
        self._head_due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _have_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def punctual(receive: Receive) -> Receive:
    """Raises ClientError once a body comes too slowly."""
    began, received, is_whole = time.monotonic(), 0, False

    async def receive_in_time() -> Message:
        nonlocal received, is_whole
        if is_whole:
            return await receive()  # which then waits for the client to leave
        seconds = began + BODY_SECONDS + received / SLOWEST_BYTES_PER_SECOND - time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError as exc:
            raise ClientError(Code.TOO_SLOW, "the body came too slowly") from exc
        received += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time
