"""The FastAPI app, put together from http/ and transports/."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from runtime.version import version
from server.access import ClientSecrets, Gate, Keys, Tokens, Used
from server.apis.deepgram.routes import listen_router
from server.apis.native.routes import offers_router
from server.apis.openai.call import CallTransport
from server.apis.openai.realtime_routes import calls_router
from server.apis.openai.routes import transcriptions_router
from server.apis.session_names import Owner
from server.apis.whip.routes import whip_router
from server.apis.whip.sender import WhipTransport
from server.errors import ServerError
from server.http import openapi
from server.http.access_control import AccessControl
from server.http.error_responses import answer_error, answer_nobody
from server.http.health import health_router
from server.http.pages import pages_router
from server.http.replica import REPLICA_HEADER, ReplicaHeader
from server.http.sockets import sockets_router
from server.http.tokens import tokens_router
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.transports.webrtc.peer import WebRtcTransport
from server.transports.websocket import WebSocketTransport

KNOWN_SECONDS = 2.0  # in which a gateway that is started again hears from its engine processes
TOLD_HEADERS = ("ETag", "Link", "Location", "Retry-After", "X-Request-Id", REPLICA_HEADER)  # to pages of other origins


def create_app(
    sessions: Sessions,
    metrics: Metrics,
    settings: Settings,
    gateway: int = 0,
    shared: Path | None = None,
    inner: Sequence[Middleware] = (),
) -> FastAPI:
    """gateway: its number among others that share the port; names of sessions hold it.

    shared: a directory of theirs alone. inner: what requests that were let in go through. Raises StartError.
    """
    access, owner = settings.access, Owner(settings.listen.replica_name, gateway)
    secrets = ClientSecrets(access.signing_key)
    tokens = Tokens(access.signing_key, Used(shared and shared / "tokens"))
    gate = Gate(Keys(access.api_keys, access.api_keys_file), tokens, secrets)
    transport = WebRtcTransport(sessions, metrics, settings.ice, settings.session.connect_timeout_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sessions.start()
        if gateway:  # the others serve meanwhile; it would refuse whom they could take
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sessions.until_warm(), KNOWN_SECONDS)
        watching = asyncio.create_task(transport.ice_servers.watch())
        yield
        watching.cancel()
        await sessions.shut_down(settings.listen.shutdown_timeout_seconds)
        await transport.close()

    app = FastAPI(title="moonshine-asr", lifespan=lifespan, version=version(), docs_url=None, redoc_url=None,
                  swagger_ui_oauth2_redirect_url=None, middleware=[
                      Middleware(ReplicaHeader, replica=owner.replica),
                      *cors(access.cors_origins),
                      Middleware(AccessControl, gate=gate, settings=settings, metrics=metrics),
                      *inner,
                  ])  # fmt: skip
    app.add_exception_handler(ServerError, answer_error)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.include_router(offers_router(transport, settings.listen.webrtc_path))
    app.include_router(tokens_router(tokens))
    app.include_router(sockets_router(WebSocketTransport(sessions, metrics), sessions, secrets, settings.model.model_id))
    app.include_router(whip_router(WhipTransport(transport, owner), settings.ice.servers))
    app.include_router(calls_router(CallTransport(transport, owner), secrets, settings))
    app.include_router(transcriptions_router(sessions, settings))
    app.include_router(listen_router(sessions, settings))
    app.include_router(pages_router())
    app.include_router(health_router(sessions, metrics, owner.replica))
    openapi.install(app)
    return app


def cors(origins: Sequence[str]) -> list[Middleware]:
    if not origins:
        return []
    every = ["*"]
    return [
        Middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=every, allow_headers=every, expose_headers=TOLD_HEADERS
        )
    ]
