"""Answers to WebSockets at unknown paths."""

from collections.abc import Callable, Sequence

from fastapi import APIRouter, Response, WebSocket

from server.errors import ClientError, Code, ServerError


def unknown_sockets_router(paths: Sequence[str], refuse: Callable[[ServerError], Response]) -> APIRouter:
    """Answer 404 at every WebSocket path but these, so it must be the last router.

    Frameworks interpret Starlette's empty 403 as a wrong key, and do not try again.
    """
    router = APIRouter()

    @router.websocket("/{path:path}")
    async def unknown(socket: WebSocket) -> None:
        error = ClientError(Code.NOT_FOUND, f"no WebSocket is here; there are {', '.join(paths)}")
        await socket.send_denial_response(refuse(error))

    return router
