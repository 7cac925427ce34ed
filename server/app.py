"""The FastAPI app. It adds each API with one line."""

import asyncio
import contextlib
import errno
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from runtime.exceptions import EngineDirectoryError
from runtime.version import version
from server.access import ClientSecrets, Gate, Keys, Tokens, UsedTokens
from server.apis.audiosocket import connection as audiosocket
from server.apis.broadcast.broadcasts import Broadcasts
from server.apis.broadcast.routes import channel_words_router
from server.apis.deepgram import routes as deepgram
from server.apis.jambonz import routes as jambonz
from server.apis.native.routes import native_router
from server.apis.openai import realtime_routes as openai_realtime
from server.apis.openai import routes as openai
from server.apis.openai.call import Calls
from server.apis.openai.transcription import ServedModel
from server.apis.session_names import SESSION_PATH, Owner
from server.apis.twilio import routes as twilio
from server.apis.vapi import routes as vapi
from server.apis.vosk import routes as vosk
from server.apis.whip.routes import whip_router, whip_words_routers
from server.apis.whip.sender import Senders
from server.apis.wyoming import connection as wyoming
from server.errors import Code, ServerError
from server.http import openapi
from server.http.access_control import AccessControl, refusal_of
from server.http.error_responses import answer_error, answer_nobody
from server.http.health import health_router
from server.http.not_found import unknown_sockets_router
from server.http.pages import pages_router
from server.http.replica import REPLICA_HEADER, ReplicaHeader
from server.http.subtitles import subtitles_router
from server.http.tokens import tokens_router
from server.http.usage import usage_router
from server.sessions.registry import Sessions
from server.settings import Settings
from server.startup import choice_of
from server.telemetry.metrics import Metrics
from server.transports.webrtc.peer import WebRtcTransport

logger = logging.getLogger(__name__)

ACCESS = (openai_realtime.ACCESS, deepgram.ACCESS, deepgram.FLUX_ACCESS, twilio.ACCESS, openai.ACCESS)  # longer prefixes first
LONG_MESSAGES = {openai_realtime.PREFIX: openai_realtime.MESSAGE_BYTES}
"""Largest message in bytes, by path, of the WebSockets that accept larger ones than others."""
SOCKET_PATHS = ("/ws", openai_realtime.PREFIX, deepgram.PATH, deepgram.FLUX_PATH, jambonz.PATH, vapi.PATH, twilio.PATH)
KNOWN_SECONDS = 2.0  # longest wait of a new gateway for its engine processes
EXPOSED_HEADERS = ("ETag", "Link", "Location", "Retry-After", "X-Request-Id", REPLICA_HEADER)  # readable by other origins


class Gateway(Protocol):
    """The part of a gateway that the app uses. The gateway shares its port with other gateways."""

    @property
    def number(self) -> int: ...

    @property
    def directory(self) -> Path: ...

    @property
    def middleware(self) -> Middleware: ...


def create_app(sessions: Sessions, metrics: Metrics, settings: Settings, gateway: Gateway | None = None) -> FastAPI:
    """Create the app. gateway: set if the app is one of several that share a port. Raises StartError."""
    access, owner = settings.access, Owner(settings.listen.replica_name, gateway.number if gateway else 0)
    secrets = ClientSecrets(access.signing_key)
    tokens = Tokens(access.signing_key, UsedTokens(gateway.directory / "tokens" if gateway else None))
    gate = Gate(Keys(access.api_keys, access.api_keys_file), tokens, secrets)
    transport = WebRtcTransport(metrics, settings.ice, settings.session.connect_timeout_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sessions.start()
        if gateway:  # the other gateways serve meanwhile; this one would refuse clients that they could serve
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sessions.until_warm(), KNOWN_SECONDS)
        watching = asyncio.create_task(transport.ice_servers.watch())
        yield
        watching.cancel()
        await sessions.shut_down(settings.listen.shutdown_timeout_seconds)
        await transport.close()

    app = FastAPI(
        title="moonshine-asr",
        lifespan=lifespan,
        version=version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        middleware=[
            Middleware(ReplicaHeader, replica=owner.replica),
            *cors(access.cors_origins),
            Middleware(AccessControl, gate=gate, settings=settings, metrics=metrics, apis=ACCESS, named_sessions=SESSION_PATH),
            *([gateway.middleware] if gateway else []),
        ],
    )
    app.add_exception_handler(ServerError, answer_error)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(OSError, answer_os_error)
    app.state.broadcasts = broadcasts = Broadcasts(metrics)
    for router in routers(sessions, metrics, settings, transport, owner, tokens, secrets, broadcasts):
        app.include_router(router)
    openapi.install(app)
    return app


def servers(app: FastAPI) -> Mapping[str, Callable[..., contextlib.AbstractAsyncContextManager[None]]]:
    """Return the servers of the APIs that have their own port, by the APIs' names in the settings."""
    return {
        "wyoming": wyoming.serving,
        "vosk": vosk.serving,
        "audiosocket": functools.partial(audiosocket.serving, app.state.broadcasts),
    }


def routers(
    sessions: Sessions,
    metrics: Metrics,
    settings: Settings,
    transport: WebRtcTransport,
    owner: Owner,
    tokens: Tokens,
    secrets: ClientSecrets,
    broadcasts: Broadcasts,
) -> list[APIRouter]:
    """Return the routers of all APIs."""
    calls = Calls(transport, sessions, settings, owner)
    senders = Senders(transport, sessions, broadcasts, settings.session.idle_timeout_seconds, owner)
    return [
        native_router(transport, sessions, settings, metrics),
        tokens_router(tokens),
        subtitles_router(),
        openai_realtime.realtime_socket_router(sessions, secrets, settings, metrics),
        openai_realtime.calls_router(calls, secrets),
        openai_realtime.secrets_router(secrets, settings),
        openai.transcriptions_router(sessions, settings, ServedModel(settings.model.model_id, precision_of(settings))),
        deepgram.deepgram_router(sessions, settings, metrics),
        jambonz.jambonz_router(sessions, settings, metrics),
        vapi.vapi_router(sessions, settings, metrics),
        vosk.vosk_router(sessions, settings, metrics),
        twilio.twilio_router(sessions, broadcasts, settings, metrics),
        whip_router(senders, settings.ice.servers),
        *whip_words_routers(broadcasts),
        channel_words_router(broadcasts),
        pages_router(),
        health_router(sessions, metrics, owner.replica, settings.listen.admin_port),
        usage_router(metrics, settings.access.usage_key),
        unknown_sockets_router(SOCKET_PATHS, openai.ACCESS.refuse),
    ]


def precision_of(settings: Settings) -> str:
    """Return the precision of the served engine; empty if there is no engine directory, as with test engines."""
    try:
        return choice_of(settings).precision
    except EngineDirectoryError:
        return ""


async def answer_os_error(request: Request, error: Exception) -> Response:
    """Answer in the format of the path's API when a disk is full or fails."""
    logger.error("%s %s: %s", request.method, request.url.path, error)
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    code, message = (Code.STORAGE_FULL, "the server's disk is full") if is_full else (Code.INTERNAL_ERROR, "the server failed")
    return refusal_of(ACCESS, request.url.path, ServerError(code, message))


def cors(origins: Sequence[str]) -> list[Middleware]:
    if not origins:
        return []
    every = ["*"]
    return [
        Middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=every, allow_headers=every, expose_headers=EXPOSED_HEADERS
        )
    ]
