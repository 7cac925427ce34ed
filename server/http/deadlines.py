"""Requests in time: whoever sends a head or a body too slowly loses the connection, and takes nobody else's."""

import asyncio
import re
from collections import deque
from typing import Any, cast

import uvloop
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.errors import ClientError, Code

HEAD_SECONDS = 10.0
READ_SECONDS = 30.0  # for a client to read some of what lies ready
BODY_SECONDS, SLOWEST_BYTES_PER_SECOND = 15.0, 1000.0  # a body may take longer while so much of it comes in as long as that
MOST_HEAD_BYTES = 64 * 1024
END_OF_HEAD = b"\r\n\r\n"
OTHER_UPGRADE = re.compile(rb"upgrade:(?!.*websocket)", re.IGNORECASE)
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"a request's head may have 64 KiB\n"
)
HANDSHAKE_SECONDS = 10.0  # for TLS; asyncio's own limit is a minute
MAX_CONNECTIONS = 4096  # those of WebSockets included; more are not answered


class PunctualLoop(uvloop.Loop):
    """uvloop's event loop with a deadline for TLS handshakes. Connections count only after theirs."""

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:
        """Create a server as uvloop does."""
        if named.get("ssl"):
            named.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
        return cast(asyncio.Server, await super().create_server(*arguments, **named))


class PunctualHttp(HttpToolsProtocol):
    """uvicorn's, which waits for a head for ever, takes one of any length, and behind a stray byte waits for the next one.

    A head is parsed once it is whole, but where it follows the request before in the same packet.
    """

    _head_due: asyncio.TimerHandle | None = None
    _read_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._unanswered: deque[RequestResponseCycle] = deque()  # requests in order, perhaps some that are answered before them
        self._head = bytearray()  # of a request, as far as it has come and is not parsed
        self._parsed_of_head = 0  # bytes of one that is parsed as it comes
        self._is_within = False  # a request has begun, and has not ended
        self._parses_head = False  # its head has not ended
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        if not self._is_within:
            self._head += data
            if not is_whole(self._head) and len(self._head) <= MOST_HEAD_BYTES:
                return
            data, self._head = bytes(self._head), bytearray()
            if data.find(END_OF_HEAD, 0, MOST_HEAD_BYTES) < 0 and len(data) > MOST_HEAD_BYTES:
                self._refuse_head()
                return
            data = without_other_upgrades(data)
        elif self._parses_head:
            self._parsed_of_head += len(data)
        super().data_received(data)
        if self.transport.get_protocol() is not self:  # a WebSocket has taken the connection over
            return
        if self._parses_head and self._parsed_of_head > MOST_HEAD_BYTES:
            self._refuse_head()
            return
        is_idle = self.cycle is not None and self.cycle.response_complete and not self.pipeline
        if is_idle and self.timeout_keep_alive_task is None and self._head_due is None and not self.transport.is_closing():
            self._expect_head()

    def pause_writing(self) -> None:
        """The client does not read its answers. One that goes on so holds a connection, and memory."""
        super().pause_writing()
        self._expect_reading()

    def _expect_reading(self) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        self._read_due = self.loop.call_later(READ_SECONDS, self._check_reading, unread_bytes)

    def _check_reading(self, unread_bytes: int) -> None:
        """One that reads slowly may go on."""
        if self.transport.get_write_buffer_size() < unread_bytes:
            self._expect_reading()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._have_read()

    def _have_read(self) -> None:
        if self._read_due is not None:
            self._read_due.cancel()
            self._read_due = None

    def on_message_complete(self) -> None:
        self._is_within = False
        super().on_message_complete()

    def _refuse_head(self) -> None:
        self.transport.write(HEAD_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        self._is_within, self._parses_head, self._parsed_of_head = True, True, 0
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._parses_head = False
        self._have_head()
        super().on_headers_complete()
        while self._unanswered and self._unanswered[0].response_complete:
            self._unanswered.popleft()
        self._unanswered.append(self.cycle)

    def handle_websocket_upgrade(self) -> None:
        self._have_head()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        self._have_read()
        self.pipeline.clear()
        for cycle in self._unanswered:  # uvicorn tells the newest request, which need not be the one that is being answered
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """An idle connection, with nothing begun, is uvicorn's to close."""
        self._have_head()
        self._head_due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _have_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def is_whole(head: bytes | bytearray) -> bool:
    """True if the head has ended, or begins so wrongly that it is better refused at once."""
    return END_OF_HEAD in head or b"\n\n" in head or not head[:1].isalpha()


def without_other_upgrades(data: bytes) -> bytes:
    """Return a request without an offer to go on in another protocol than WebSocket, which servers may leave unanswered.

    Java's client offers HTTP/2 with every request, and httptools stops at such an offer, before the body.
    """
    head, end, rest = data.partition(END_OF_HEAD)
    if b"\nupgrade:" not in head.lower():
        return data
    lines = [line for line in head.split(b"\r\n") if not OTHER_UPGRADE.match(line)]
    return b"\r\n".join(lines) + end + rest


def punctual(receive: Receive) -> Receive:
    """Raises ClientError once a body comes too slowly: in every stretch of BODY_SECONDS some of it must, at the slowest rate."""
    now = asyncio.get_running_loop().time
    since, received, is_whole = now(), 0, False

    async def receive_in_time() -> Message:
        nonlocal since, received, is_whole
        if is_whole:
            return await receive()  # which then waits for the client to leave
        try:
            async with asyncio.timeout_at(since + BODY_SECONDS):
                message = await receive()
        except TimeoutError as exc:
            raise ClientError(Code.TOO_SLOW, "the body came too slowly") from exc
        received += len(message.get("body", b""))
        if received >= BODY_SECONDS * SLOWEST_BYTES_PER_SECOND:
            since, received = now(), 0
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time
