"""Deadlines for requests: a client that sends a head or a body too slowly loses its connection, and does not block others."""

import asyncio
import re
from collections import deque
from typing import Any, cast

import uvloop
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.errors import ClientError, Code

HEAD_SECONDS = 10.0
READ_SECONDS = 30.0  # for a client to read some of the waiting data
BODY_SECONDS, SLOWEST_BYTES_PER_SECOND = 15.0, 1000.0  # a body may take longer while it keeps this rate
MOST_HEAD_BYTES = 64 * 1024
END_OF_HEAD = b"\r\n\r\n"
OTHER_UPGRADE = re.compile(rb"upgrade:(?!.*websocket)", re.IGNORECASE)
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"a request's head may have 64 KiB\n"
)
HANDSHAKE_SECONDS = 10.0  # for TLS; asyncio's own limit is a minute
MAX_CONNECTIONS = 4096  # including WebSockets; further connections are not answered


class PunctualLoop(uvloop.Loop):
    """uvloop's event loop with a deadline for TLS handshakes. A connection counts only after its handshake."""

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:
        """Create a server as uvloop does."""
        if named.get("ssl"):
            named.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
        return cast(asyncio.Server, await super().create_server(*arguments, **named))


class PunctualHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits.

    uvicorn waits for ever for a head, accepts a head of any length, and after a stray byte waits for the next one. Here a head is
    parsed when it is complete, unless it follows another request in the same packet.
    """

    _head_due: asyncio.TimerHandle | None = None
    _read_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._unanswered: deque[RequestResponseCycle] = deque()  # requests in order; the first ones may be answered already
        self._head = bytearray()  # received part of a head that is not parsed yet
        self._parsed_of_head = 0  # bytes of a head that is parsed as it arrives
        self._is_within = False  # a request has begun, and has not ended
        self._parses_head = False  # the head of a request has not ended
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
        """Set a deadline: a client that does not read its answers holds a connection and memory."""
        super().pause_writing()
        self._expect_reading()

    def _expect_reading(self) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        self._read_due = self.loop.call_later(READ_SECONDS, self._check_reading, unread_bytes)

    def _check_reading(self, unread_bytes: int) -> None:
        """Close the connection if the client has read nothing; one that reads slowly may go on."""
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
        for cycle in self._unanswered:  # uvicorn informs only the newest request, which may not be the one that is being answered
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """Set a deadline for the next head. uvicorn itself closes an idle connection on which no request has begun."""
        self._have_head()
        self._head_due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _have_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def is_whole(head: bytes | bytearray) -> bool:
    """True if the head is complete, or begins so wrongly that it is better refused at once."""
    return END_OF_HEAD in head or b"\n\n" in head or not head[:1].isalpha()


def without_other_upgrades(data: bytes) -> bytes:
    """Return a request without offers to upgrade to another protocol than WebSocket. A server may ignore such an offer.

    Java's client offers HTTP/2 with every request, and httptools stops at such an offer, before the body.
    """
    head, end, rest = data.partition(END_OF_HEAD)
    if b"\nupgrade:" not in head.lower():
        return data
    lines = [line for line in head.split(b"\r\n") if not OTHER_UPGRADE.match(line)]
    return b"\r\n".join(lines) + end + rest


def punctual(receive: Receive) -> Receive:
    """Return a receive function that raises ClientError if a body comes too slowly.

    In each period of BODY_SECONDS, data must come at SLOWEST_BYTES_PER_SECOND on average.
    """
    now = asyncio.get_running_loop().time
    since, received, is_whole = now(), 0, False

    async def receive_in_time() -> Message:
        nonlocal since, received, is_whole
        if is_whole:
            return await receive()  # it then waits for the client to leave
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
