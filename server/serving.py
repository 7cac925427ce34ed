"""The web server: HTTP and WebSockets in front of a transcriber, signals, drain, the admin port, TLS."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from runtime.scheduler.transcriber import Transcriber
from runtime.tokenizer import Tokenizer
from runtime.turns import weights
from runtime.turns.turn_model import TurnModel
from runtime.turns.worker import TurnWorker
from server.app import LONG_MESSAGES, create_app, servers
from server.http.deadlines import PunctualLoop
from server.http.front import front_config, listening_on
from server.http.handed_on import SECRET_VARIABLE, HandedOn
from server.parent_process import end_undrained
from server.sessions.registry import Sessions
from server.settings import Model, Settings
from server.startup import Listeners, keep_tls_fresh
from server.telemetry.heartbeat import beating, exit_at_once
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import exporting
from server.transports.websocket_frames import BoundedWebSocket

logger = logging.getLogger("server")

DEFECT_STATUS = 5  # exit status of a process that stopped because one of its tasks ended unexpectedly


Finish = Callable[[], Coroutine[None, None, None]]


class QuietServer(uvicorn.Server):
    """A uvicorn server that ends with an exit status after an orderly shutdown. uvicorn itself would raise the signal again."""

    status = 0

    def __init__(self, config: uvicorn.Config, drain: Finish, finish: Finish):
        """drain: lets open sessions go on, and returns when their time is over; may be cancelled.

        finish: sends the finals of the remaining sessions while their connections are still open.
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
        """Drain at the first SIGTERM, and end at the second."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
            self._draining.add_done_callback(lambda _: self.handle_exit(signal.SIGTERM, None))
        else:
            self._draining.cancel()

    def stop_on_defect(self) -> None:
        self.status = DEFECT_STATUS
        self.should_exit = True


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a record is worth logging.

    uvicorn reports a refused WebSocket as an error of the application, and logs addresses of WebSockets, which may hold a token.
    """
    said = record.getMessage()
    return not said.startswith("ASGI callable returned without completing handshake") and "WebSocket /" not in said


@dataclass(frozen=True)
class SharedPort:
    """A gateway that shares its port with other gateways."""

    number: int
    """Number of the gateway, from 1."""
    directory: Path
    """Directory that only these gateways use."""
    middleware: Middleware
    """Middleware before the app that forwards a request to the gateway that it is for."""
    listen: Callable[[], socket.socket]
    """Makes the socket where this gateway receives requests from the others."""
    until_alone: Callable[[], Coroutine[None, None, None]]
    """Returns when the process that started this gateway has ended."""


def serve(
    settings: Settings,
    transcriber: Transcriber,
    tokenizer: Tokenizer,
    metrics: Metrics,
    listeners: Listeners,
    shared_port: SharedPort | None = None,
) -> int:
    """Serve until SIGTERM; returns the exit status. Raises StartError."""
    with exporting(metrics.registry) as tracing, judging_turns(settings, metrics) as turn_worker:
        sessions = Sessions(transcriber, tokenizer, settings, metrics, tracing=tracing, turn_worker=turn_worker)
        status = serve_sessions(sessions, settings, metrics, listeners, shared_port)
    if status == DEFECT_STATUS:
        exit_at_once(status)
    return status


@contextlib.contextmanager
def judging_turns(settings: Settings, metrics: Metrics) -> Iterator[TurnWorker | None]:
    """Run the turn model's thread within the context, if there is a model. Raises EngineDirectoryError."""
    path = turn_model_of(settings.model)
    if path is None:
        yield None
        return
    worker = TurnWorker(TurnModel(path), metrics.count_pauses)
    worker.start()
    logger.info("ends of turns are judged by their sound, too: %s", path.name)
    yield worker
    worker.stop()


def turn_model_of(model: Model) -> Path | None:
    """Return the file of the turn model, either named or installed; None if there is none."""
    if model.turn_model == "none":
        return None
    return weights.installed(weights.default_directory()) if model.turn_model == "auto" else Path(model.turn_model)


def serve_sessions(
    sessions: Sessions, settings: Settings, metrics: Metrics, listeners: Listeners, shared_port: SharedPort | None
) -> int:
    """Serve until the server ends; returns the exit status."""
    app = create_app(sessions, metrics, settings, shared_port)
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
        config.load()
        async with contextlib.AsyncExitStack() as serving:
            await serving.enter_async_context(beating(metrics.loop_lag.observe))
            await serving.enter_async_context(administered(config, listeners.admin))
            for api, listener in listeners.apis.items():
                await serving.enter_async_context(servers(app)[api](sessions, metrics, settings, listener))
            if config.ssl is not None:
                serving.enter_context(in_background(keep_tls_fresh(config.ssl, settings.listen)))
            sockets = list(listeners.http)
            if shared_port is not None:
                serving.enter_context(in_background(stop_when_alone(server, shared_port)))
                sockets.append(shared_port.listen())
            await server.serve(sockets)

    with asyncio.Runner(loop_factory=PunctualLoop) as runner:
        runner.run(run())
    return server.status


@contextlib.contextmanager
def in_background(work: Coroutine[None, None, None]) -> Iterator[None]:
    """Run the work within the context."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


async def stop_when_alone(server: uvicorn.Server, shared_port: SharedPort) -> None:
    """Stop the server when its supervisor has died: nothing else would stop it."""
    await shared_port.until_alone()
    server.should_exit = True


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    secret = os.environ.get(SECRET_VARIABLE)
    return front_config(
        HandedOn(app, secret) if secret else app,
        BoundedWebSocket.with_long_messages(LONG_MESSAGES),
        log_level=settings.telemetry.log_level,
        timeout_graceful_shutdown=5,
        proxy_headers=bool(settings.listen.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.listen.trusted_proxies],
        ssl_certfile=settings.listen.tls_cert,
        ssl_keyfile=settings.listen.tls_key,
    )


@contextlib.asynccontextmanager
async def administered(config: uvicorn.Config, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve the admin port, if there is one. Its connections are counted separately: the other port cannot use them up."""
    if listener is None:
        yield
        return
    async with listening_on(config, listener):
        yield
