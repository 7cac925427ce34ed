"""The FastAPI app, put together from http/ and transports/."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from server.errors import ServerError
from server.http.failures import answer_error
from server.http.health import health_router
from server.http.listen import listen_router
from server.http.offers import offers_router
from server.http.pages import pages_router
from server.http.sockets import sockets_router
from server.http.transcriptions import transcriptions_router
from server.sessions import Sessions
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.transports.webrtc import WebRtcTransport
from server.transports.websocket import WebSocketTransport


def create_app(sessions: Sessions, metrics: Metrics, settings: Settings) -> FastAPI:
    transport = WebRtcTransport(sessions, metrics, settings.listen.ice_servers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sessions.start()
        yield
        await sessions.shut_down(settings.listen.shutdown_timeout_seconds)
        await transport.close()

    app = FastAPI(title="moonshine-asr", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ServerError, answer_error)
    app.include_router(offers_router(transport, settings.listen.webrtc_path))
    app.include_router(sockets_router(WebSocketTransport(sessions, metrics), sessions))
    app.include_router(transcriptions_router(sessions, settings))
    app.include_router(listen_router(sessions, settings))
    app.include_router(pages_router())
    app.include_router(health_router(sessions, metrics))
    return app
