"""The FastAPI app, put together from http/ and transports/."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from server.access import ClientSecrets
from server.errors import ServerError
from server.http import openapi
from server.http.calls import calls_router
from server.http.failures import answer_error
from server.http.health import health_router
from server.http.listen import listen_router
from server.http.offers import offers_router
from server.http.pages import pages_router
from server.http.sockets import sockets_router
from server.http.transcriptions import transcriptions_router
from server.http.whip import whip_router
from server.sessions import Sessions
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.transports.calls import CallTransport
from server.transports.webrtc import WebRtcTransport
from server.transports.websocket import WebSocketTransport
from server.transports.whip import WhipTransport
from server.version import version


def create_app(sessions: Sessions, metrics: Metrics, settings: Settings, gateway: int = 0) -> FastAPI:
    """gateway: its number among others that share the port; names of sessions begin with it."""
    transport = WebRtcTransport(sessions, metrics, settings.listen.ice_servers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sessions.start()
        yield
        await sessions.shut_down(settings.listen.shutdown_timeout_seconds)
        await transport.close()

    app = FastAPI(title="moonshine-asr", lifespan=lifespan, version=version(), docs_url=None, redoc_url=None,
                  swagger_ui_oauth2_redirect_url=None)  # fmt: skip
    app.add_exception_handler(ServerError, answer_error)
    app.include_router(offers_router(transport, settings.listen.webrtc_path))
    secrets = ClientSecrets(settings.access.signing_key)
    app.include_router(sockets_router(WebSocketTransport(sessions, metrics), sessions, secrets))
    app.include_router(whip_router(WhipTransport(transport, gateway), settings.listen.ice_servers))
    app.include_router(calls_router(CallTransport(transport, gateway), secrets, settings))
    app.include_router(transcriptions_router(sessions, settings))
    app.include_router(listen_router(sessions, settings))
    app.include_router(pages_router())
    app.include_router(health_router(sessions, metrics))
    openapi.install(app)
    return app
