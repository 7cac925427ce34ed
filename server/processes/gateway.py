"""What faces the clients: HTTP, WebRTC and sessions, in front of a transcriber.

python -m server.processes.gateway is one of several such processes; supervisor.py starts them.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from uvicorn.server import ServerState

from runtime.scheduler.transcriber import Transcriber
from runtime.tokenizer import Tokenizer
from server.apis.wyoming import connection as wyoming
from server.app import create_app
from server.http.deadlines import PunctualHttp
from server.processes.forwarding import SOCKET_VARIABLE as GATEWAY_VARIABLE
from server.processes.forwarding import Forwarding, Place
from server.processes.messages import SOCKET_VARIABLE
from server.processes.parent import end_undrained
from server.processes.remote_engine import RemoteEngine
from server.sessions.registry import Sessions
from server.settings import Settings
from server.startup import Listeners, choice_of, keep_tls_fresh, listen_everywhere, started
from server.telemetry.heartbeat import beating, exit_at_once
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import exporting
from server.transports.websocket_frames import BoundedWebSocket

logger = logging.getLogger("server.gateway")

ORPHAN_CHECK_SECONDS = 1.0
PONG_SECONDS = 60.0  # a client that is read slowly has its pong wait behind its audio
DEFECT_STATUS = 5  # exit status of a process that stopped because a task of its own had ended


Finish = Callable[[], Coroutine[None, None, None]]


class QuietServer(uvicorn.Server):
    """uvicorn, ending with an exit status after an orderly shutdown: it would raise the signal again."""

    status = 0

    def __init__(self, config: uvicorn.Config, drain: Finish, finish: Finish):
        """drain: returns when open sessions have gone on for long enough, and may be cancelled.

        finish: gives those that are left their finals, while their connections are still there.
        """
        super().__init__(config)
        self._drain, self._finish = drain, finish
        self._draining: asyncio.Task[None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._finish()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self.handle_exit, signal.SIGINT, None)
        end_undrained()
        yield

    def _on_sigterm(self) -> None:
        """The first one drains, the second one ends."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
            self._draining.add_done_callback(lambda _: self.handle_exit(signal.SIGTERM, None))
        else:
            self._draining.cancel()

    def stop_on_defect(self) -> None:
        self.status = DEFECT_STATUS
        self.should_exit = True


def is_news(record: logging.LogRecord) -> bool:
    """uvicorn calls a WebSocket that is refused with an answer an error of ours, and tells addresses, which may hold a token."""
    said = record.getMessage()
    return not said.startswith("ASGI callable returned without completing handshake") and "WebSocket /" not in said


def serve(
    settings: Settings,
    transcriber: Transcriber,
    tokenizer: Tokenizer,
    metrics: Metrics,
    listeners: Listeners,
    place: Place | None = None,
) -> int:
    """Until SIGTERM; returns the exit status. place: among other gateways; it ends with the parent process, too.

    Raises StartError.
    """
    with exporting(metrics.registry) as tracing:
        sessions = Sessions(transcriber, tokenizer, settings, metrics, tracing=tracing)
        status = serve_sessions(sessions, settings, metrics, listeners, place)
    if status == DEFECT_STATUS:
        exit_at_once(status)
    return status


def serve_sessions(
    sessions: Sessions, settings: Settings, metrics: Metrics, listeners: Listeners, place: Place | None = None
) -> int:
    """Returns the exit status."""
    if place is None:
        app = create_app(sessions, metrics, settings)
    else:
        forwarding = Middleware(Forwarding, place=place, listen=settings.listen)
        app = create_app(sessions, metrics, settings, place.number, place.directory, [forwarding])
    config = config_of(app, settings)
    logging.getLogger("uvicorn.error").addFilter(is_news)
    listening = settings.listen
    server = QuietServer(
        config,
        drain=lambda: sessions.drain(listening.drain_seconds),
        finish=lambda: sessions.finish_all(listening.shutdown_timeout_seconds),
    )
    sessions.on_defect = server.stop_on_defect

    async def run() -> None:
        background = [asyncio.create_task(stop_when_orphaned(server))] if place else []
        config.load()
        if config.ssl is not None:
            background.append(asyncio.create_task(keep_tls_fresh(config.ssl, settings.listen)))
        async with (
            beating(metrics.loop_lag.observe),
            administered(config, listeners.admin),
            wyoming.serving(sessions, metrics, settings.model.model_id, listeners.wyoming),
        ):
            await server.serve([listeners.http, place.listen()] if place else [listeners.http])
        for task in background:
            task.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())
    return server.status


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=PunctualHttp,
        ws=BoundedWebSocket,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,  # audio does not shrink, and it would cost its CPU with every message
        log_level=settings.telemetry.log_level,
        access_log=False,
        timeout_graceful_shutdown=5,
        proxy_headers=bool(settings.listen.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.listen.trusted_proxies],
        ssl_certfile=settings.listen.tls_cert,
        ssl_keyfile=settings.listen.tls_key,
    )


@contextlib.asynccontextmanager
async def administered(config: uvicorn.Config, listener: socket.socket | None) -> AsyncIterator[None]:
    """Answers on the admin port, with connections of its own: those of the other port cannot use them up."""
    if listener is None:
        yield
        return
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: PunctualHttp(config=config, server_state=state, app_state={}), sock=listener
    )
    yield
    server.close()


async def stop_when_orphaned(server: uvicorn.Server) -> None:
    """A gateway whose supervisor has died would serve for ever what nobody knows of."""
    parent = os.getppid()
    while not server.should_exit:
        await asyncio.sleep(ORPHAN_CHECK_SECONDS)
        if os.getppid() != parent:
            logger.error("the supervisor is gone")
            server.should_exit = True


def run(settings: Settings) -> int:
    tokenizer = Tokenizer.load(choice_of(settings).directory)
    listeners = listen_everywhere(settings.listen, shared=True)
    remote_engine = RemoteEngine(os.environ[SOCKET_VARIABLE].split())
    return serve(settings, remote_engine, tokenizer, Metrics(), listeners, Place.of(os.environ[GATEWAY_VARIABLE]))


if __name__ == "__main__":
    sys.exit(started(run))
