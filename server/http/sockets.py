"""WebSockets: where they are opened, and how they are refused."""

from fastapi import APIRouter, WebSocket

from server.errors import Refused
from server.http.failures import error_response
from server.transports.websocket import WebSocketTransport


def sockets_router(transport: WebSocketTransport) -> APIRouter:
    router = APIRouter()

    @router.websocket("/ws")
    async def native(socket: WebSocket) -> None:
        """A session that finds no place is refused before the socket is accepted: HTTP 503 with the reason."""
        try:
            connection = transport.open(socket)
        except Refused as refused:
            await socket.send_denial_response(error_response(refused))
            return
        await connection.run()

    return router
