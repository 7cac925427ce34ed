"""Vosk's clients connect to `/`, or to a separate port. They send no keys."""

import contextlib
import socket
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, WebSocket

from server.access import ANYONE, Caller
from server.apis.vosk.session import VoskSession
from server.apis.websocket_route import serve_session
from server.errors import ClientError, Code
from server.http.access_control import caller_of, is_foreign, network_of
from server.http.error_responses import error_response
from server.http.front import front_config, listening_on
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics

PATH = "/"
FOREIGN = ClientError(Code.FORBIDDEN_ORIGIN, "pages of another origin are not let in; ASR_CORS_ORIGINS names those that are")


def vosk_router(sessions: Sessions, settings: Settings, metrics: Metrics) -> APIRouter:
    """Serve Vosk at the server's own port, beside the page; no route if ASR_VOSK is not set."""
    router = APIRouter()
    if settings.listen.vosk:

        @router.websocket(PATH)
        async def recognize(socket: WebSocket) -> None:
            await serve(socket, caller_of(socket), sessions, settings, metrics)

    return router


@contextlib.asynccontextmanager
async def serving(sessions: Sessions, metrics: Metrics, settings: Settings, listener: socket.socket) -> AsyncIterator[None]:
    """Serve Vosk's clients on a port of their own, at any path, within the context."""
    app = FastAPI(openapi_url=None)

    @app.websocket("/{path:path}")
    async def recognize(socket: WebSocket, path: str) -> None:
        if is_foreign(socket.headers, settings.access.cors_origins):  # any page could reach this machine's port
            await socket.send_denial_response(error_response(FOREIGN))
            return
        caller = Caller(ANYONE.name, address=network_of(socket.client.host if socket.client else ""))
        await serve(socket, caller, sessions, settings, metrics)

    config = front_config(app, proxy_headers=False)
    config.load()
    async with listening_on(config, listener):
        yield


async def serve(socket: WebSocket, caller: Caller, sessions: Sessions, settings: Settings, metrics: Metrics) -> None:
    await serve_session(socket, Api.VOSK, caller, sessions, metrics, lambda seat, send: VoskSession(seat, settings.session, send))
