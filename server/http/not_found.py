"""WebSockets at paths where none is."""

from collections.abc import Callable, Sequence

from fastapi import APIRouter, Response, WebSocket

from server.errors import ClientError, Code, ServerError


def unknown_sockets_router(paths: Sequence[str], refuse: Callable[[ServerError], Response]) -> APIRouter:
    """Answers 404 at every WebSocket path but these, so it must be the last router.

    Frameworks take Starlette's empty 403 for a lost key, and never try again.
    """
    router = APIRouter()

    @router.websocket("/{path:path}")
    async def unknown(socket: WebSocket) -> None:
        error = ClientError(Code.NOT_FOUND, f"no WebSocket is here; there are {', '.join(paths)}")
        await socket.send_denial_response(refuse(error))

    return router
