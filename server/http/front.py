"""Ports for HTTP and WebSockets share their settings: the server's own bounded protocols, and its own log."""

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
        ws_per_message_deflate=False,  # audio does not shrink, and it would cost its CPU with every message
        access_log=False,
        log_config=None,  # its lines go where all lines go, as JSON where that is asked for
        **options,
    )


@contextlib.asynccontextmanager
async def listening_on(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Serve a port beside the server's own, with connections of its own, within the context. config: loaded."""
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: PunctualHttp(config=config, server_state=state, app_state={}), sock=listener
    )
    yield
    server.close()
