"""Settings that all ports for HTTP and WebSockets share: the server's own protocols with limits, and its own log."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from server.http.deadlines import PunctualHttp
from server.transports.websocket_frames import PONG_SECONDS, BoundedWebSocket


def front_config(application: ASGIApp, ws: type[BoundedWebSocket] = BoundedWebSocket, **options: Any) -> uvicorn.Config:
    """Return uvicorn's settings for a port. options: further ones, as uvicorn names them."""
    return uvicorn.Config(
        application,
        http=PunctualHttp,
        ws=ws,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,  # audio does not compress, and every message would cost CPU
        access_log=False,
        log_config=None,  # its lines go to the server's log, as JSON if that is set
        **options,
    )


@contextlib.asynccontextmanager
async def listening_on(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Serve a port in addition to the server's own, with connections of its own, within the context. config: loaded."""
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: PunctualHttp(config=config, server_state=state, app_state={}), sock=listener
    )
    yield
    server.close()
