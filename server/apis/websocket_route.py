"""A route of a WebSocket: a seat or a refusal, then the session over the socket."""

from collections.abc import Callable

from fastapi import WebSocket

from server.access import Caller
from server.errors import Refused
from server.http.error_responses import error_response
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import OutgoingMessage
from server.transports.websocket import WebSocketConnection, first_subprotocol

Send = Callable[[OutgoingMessage], bool]


async def serve_session(
    socket: WebSocket,
    api: Api,
    caller: Caller,
    sessions: Sessions,
    metrics: Metrics,
    begin: Callable[[Seat, Send], object],
    session_id: str = "",
) -> None:
    """Serve the session that `begin` makes from a seat and from the function that sends the session's messages.

    A session without a free place is refused before the socket is accepted: HTTP 503 with the reason.
    """
    connection = WebSocketConnection(socket, api, metrics)
    try:
        seat = sessions.take_seat(api, caller, connection.end, waits=True, session_id=session_id)
    except Refused as refused:
        await socket.send_denial_response(error_response(refused))
        return
    begin(seat, connection.send)
    await connection.run(seat, first_subprotocol(socket))
