"""The WebSocket transport: a session of any API over a socket."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import ClassVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from server.errors import ServerError
from server.sessions.seat import BEHIND_SHARE, Seat
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import MessageQueue, Outbox
from server.transports.websocket_frames import DIRECT, BoundedWebSocket

LINGER_SECONDS = 5.0  # longest time to write the last messages


class WebSocketConnection:
    """One socket. Its session is made before the socket is accepted, so that a refusal is an HTTP answer.

    Messages go directly between the session and the socket if this server's own protocol carries it, else by ASGI.
    """

    takes_at_once: ClassVar[bool] = True
    """True if a message is taken without waiting."""

    def __init__(self, socket: WebSocket, api: Api, metrics: Metrics):
        self._socket = socket
        self._seat: Seat | None = None
        self._unsent = MessageQueue()
        self._holding_back: asyncio.Task[None] | None = None
        self._direct: BoundedWebSocket | None = None
        outbox = Outbox(api, self._unsent, metrics, asyncio.get_running_loop().time, self._give_up)
        self.send, self.end = outbox.send, self._unsent.end
        """Functions for a session: `send` takes its messages, `end` is called after the last one."""

    async def run(self, seat: Seat, subprotocol: str | None = None, headers: Mapping[str, str] = {}) -> None:
        """Serve the seat's session until the client has left, or the session's last message is written."""
        self._seat = seat
        self.begin(seat)
        try:
            await self._socket.accept(subprotocol, [(name.encode(), value.encode()) for name, value in headers.items()])
            if self.takes_at_once and (direct := self._socket.scope.get("extensions", {}).get(DIRECT)):
                self._connect(direct, seat)
            reading, writing = asyncio.create_task(self._read(seat)), asyncio.create_task(self._write(seat))
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            self.end()
            await asyncio.wait({writing}, timeout=LINGER_SECONDS)  # do not wait for a client that does not read
            if self._holding_back is not None and self._direct is not None:
                self._direct.go_on()  # read on, for the client's last frame
            tasks = [task for task in (reading, writing, self._holding_back) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self.stop()
            seat.leave()

    def begin(self, seat: Seat) -> None:
        """Called before anything is received."""

    def stop(self) -> None:
        """Called when nothing more is received."""

    def _connect(self, direct: BoundedWebSocket, seat: Seat) -> None:
        """Pass messages on directly, without a queue and a task."""
        self._direct = direct
        self._unsent.write_to(direct)
        direct.deliver_to(lambda message: self._take(message, direct, seat))

    def _take(self, message: str | bytes, direct: BoundedWebSocket, seat: Seat) -> None:
        if isinstance(message, bytes):
            seat.receive_audio(message)
        else:
            seat.receive_text(message)
        if seat.is_behind and self._holding_back is None:
            direct.hold_back()
            self._holding_back = asyncio.create_task(self._let_go_on(direct, seat))

    async def _let_go_on(self, direct: BoundedWebSocket, seat: Seat) -> None:
        await seat.until_waiting(BEHIND_SHARE)
        self._holding_back = None
        direct.go_on()

    async def _read(self, seat: Seat) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            if (text := message.get("text")) is not None:
                await self.receive_text(seat, text)
            else:
                await self.receive_audio(seat, message["bytes"])
            await seat.until_ready()

    async def receive_text(self, seat: Seat, text: str) -> None:
        seat.receive_text(text)

    async def receive_audio(self, seat: Seat, audio: bytes) -> None:
        seat.receive_audio(audio)

    async def _write(self, seat: Seat) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has gone meanwhile
            while (text := await self._unsent.next()) is not None:
                await self._socket.send_text(text)
            await self._socket.close(seat.session.close_code, seat.session.close_reason)

    def _give_up(self, error: ServerError) -> None:
        if self._seat is not None:
            self._seat.fail_soon(error)


def first_subprotocol(socket: WebSocket) -> str | None:
    """Return the first subprotocol that the client offers. If none is chosen, browsers close the socket."""
    offered = socket.scope.get("subprotocols", [])
    return str(offered[0]) if offered else None
