"""WebSockets at paths where none is."""

from collections.abc import Sequence

from fastapi import APIRouter, WebSocket

from server.errors import ClientError, Code
from server.http.access_control import ApiAccess, refusal_of


def unknown_sockets_router(paths: Sequence[str], apis: Sequence[ApiAccess]) -> APIRouter:
    """Answers 404 at every WebSocket path but these, so it must be the last router.

    Frameworks take Starlette's empty 403 for a lost key, and never try again.
    """
    router = APIRouter()

    @router.websocket("/{path:path}")
    async def unknown(socket: WebSocket) -> None:
        error = ClientError(Code.NOT_FOUND, f"no WebSocket is here; there are {', '.join(paths)}")
        await socket.send_denial_response(refusal_of(apis, socket.url.path, error))

    return router
