"""What faces the clients: HTTP, WebRTC and sessions, in front of an engine loop or of links to some.

python -m server.cluster.gateway is one of several such processes; supervisor.py starts them.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server.app import create_app
from server.cluster.engine_link import EngineLink
from server.cluster.engine_pool import EnginePool
from server.cluster.messages import SOCKET_VARIABLE
from server.session import SessionLimits
from server.sessions import Hub
from server.settings import Settings
from server.startup import choice_of, load_settings, set_up_log
from server.telemetry.metrics import Metrics

logger = logging.getLogger("server.cluster.gateway")

BACKLOG = 1024  # connections that wait to be accepted
ORPHAN_CHECK_SECONDS = 1.0


def session_limits(settings: Settings) -> SessionLimits:
    return SessionLimits(
        max_batch=settings.max_batch,
        max_buffer_seconds=settings.max_buffer_seconds,
        interim_interval_seconds=settings.interim_interval_ms / 1000,
        max_segment_seconds=settings.max_segment_seconds,
        init_timeout_seconds=settings.init_timeout_seconds,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        close_timeout_seconds=settings.close_timeout_seconds,
        stable_agreement=settings.stable_agreement,
    )


class QuietServer(uvicorn.Server):
    """uvicorn, ending with exit status 0 after an orderly shutdown: it would raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def build_server(
    settings: Settings, engine_loop: EngineLoop | EnginePool, tokenizer: Tokenizer, metrics: Metrics
) -> uvicorn.Server:
    hub = Hub(engine_loop, tokenizer, session_limits(settings), settings.session_limit, metrics)
    if isinstance(engine_loop, EnginePool):
        engine_loop.on_lost(hub.lose)
    app = create_app(hub, metrics, settings)
    config = uvicorn.Config(app, host=settings.host, port=settings.port, loop="uvloop", http="httptools", ws="none",
                            log_level=settings.log_level, access_log=False, timeout_graceful_shutdown=5)  # fmt: skip
    return QuietServer(config)


def run(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
    """Until SIGTERM. sockets: to accept connections on; default: the settings' host and port."""

    async def serve() -> None:
        watching = asyncio.create_task(stop_when_orphaned(server)) if sockets else None
        await server.serve(sockets)
        if watching:
            watching.cancel()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())


async def stop_when_orphaned(server: uvicorn.Server) -> None:
    """A gateway whose supervisor has died would serve for ever what nobody knows of."""
    parent = os.getppid()
    while not server.should_exit:
        await asyncio.sleep(ORPHAN_CHECK_SECONDS)
        if os.getppid() != parent:
            logger.error("the supervisor is gone")
            server.should_exit = True


def listen(host: str, port: int, shared: bool) -> socket.socket:
    """Accept connections there. shared: with other processes; the kernel deals them out evenly. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)


def main() -> int:
    settings = load_settings()
    set_up_log(settings)
    tokenizer = Tokenizer.load(choice_of(settings).directory)
    listener = listen(settings.host, settings.port, shared=True)
    pool = EnginePool([EngineLink(address) for address in os.environ[SOCKET_VARIABLE].split()])
    run(build_server(settings, pool, tokenizer, Metrics()), [listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
