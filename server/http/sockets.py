"""WebSockets: where they are opened, and how they are refused."""

from fastapi import APIRouter, WebSocket

from server.access import ClientSecrets
from server.apis.deepgram import messages as deepgram
from server.apis.openai import shapes as realtime_shapes
from server.errors import ClientError, Code, Refused, ServerError
from server.http.access_control import caller_of, key_of
from server.http.error_responses import error_response, refuse, refuse_deepgram
from server.sessions.registry import Sessions
from server.telemetry.metrics import Api
from server.transports.websocket import WebSocketTransport

REALTIME_PROTOCOL = "realtime"
PATHS = ("/ws", "/v1/realtime", "/v1/listen")


def sockets_router(transport: WebSocketTransport, sessions: Sessions, secrets: ClientSecrets, model_id: str) -> APIRouter:
    router = APIRouter()

    @router.websocket("/ws")
    async def native(socket: WebSocket) -> None:
        """A session that finds no place is refused before the socket is accepted: HTTP 503 with the reason."""
        caller = caller_of(socket)
        try:
            connection = transport.open(
                socket, Api.WEBSOCKET, lambda send, on_end: sessions.open(send, on_end, Api.WEBSOCKET, caller=caller)
            )
        except Refused as refused:
            await socket.send_denial_response(error_response(refused))
            return
        offered = socket.scope.get("subprotocols", [])
        await connection.run(offered[0] if offered else None)

    @router.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        """OpenAI's clients offer subprotocols, of which one must be chosen."""
        offered = socket.scope.get("subprotocols", [])
        try:
            secret = secrets.read(key_of(socket))
            configuration = secret.session if secret else None
            shape = realtime_shapes.offered(socket.headers.get("openai-beta", ""), offered)
            connection = transport.open(
                socket,
                Api.OPENAI_REALTIME,
                lambda send, on_end: sessions.open_realtime(send, on_end, configuration, shape=shape, caller=caller_of(socket)),
            )
        except ServerError as error:
            await socket.send_denial_response(refuse(error))
            return
        await connection.run(REALTIME_PROTOCOL if REALTIME_PROTOCOL in offered else None)

    @router.websocket("/v1/listen")
    async def listen(socket: WebSocket) -> None:
        """Deepgram's clients may bring their key as a second subprotocol; the first is chosen."""
        try:
            asked = deepgram.parse(dict(socket.query_params), model_id)
            connection = transport.open(
                socket,
                Api.DEEPGRAM,
                lambda send, on_end: sessions.open_deepgram(asked, send, on_end, caller_of(socket)),
                is_container=asked.audio_format is None,
            )
        except ServerError as error:
            await socket.send_denial_response(refuse_deepgram(error))
            return
        offered = socket.scope.get("subprotocols", [])
        await connection.run(offered[0] if offered else None, {"dg-request-id": asked.request_id})

    @router.websocket("/{path:path}")
    async def nothing(socket: WebSocket) -> None:
        """The last route: frameworks take an empty 403 for a lost key, and never try again."""
        named = ", ".join(PATHS)
        await socket.send_denial_response(refuse(ClientError(Code.NOT_FOUND, f"no WebSocket is here; there are {named}")))

    return router
