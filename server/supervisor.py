"""Several gateway processes in front of one engine process: starts them, starts again those that die, ends them in order."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import multiprocess

from server.gateway import LISTENER_VARIABLE
from server.metrics import SHARED_VARIABLE
from server.settings import Settings
from server.wire import SOCKET_VARIABLE

logger = logging.getLogger("server.supervisor")

SETTLED_SECONDS = 20.0  # a process that lived so long died of something new
EARLY_DEATHS = 5  # in a row, each before it had settled: starting it once more would not help
PAUSE_SECONDS = 0.5  # before a process is started again, doubled with every early death
BACKLOG = 1024  # connections that wait to be accepted
KILL_SECONDS = 15.0  # beyond its own limit, for a process to end when told to


@dataclass
class Child:
    """One process that is to run for as long as the server does."""

    name: str
    module: str
    process: asyncio.subprocess.Process | None = None
    early_deaths: int = 0


@dataclass
class Supervisor:
    """Of one server."""

    settings: Settings
    environment: Mapping[str, str]
    listener: socket.socket
    shared: Path
    """Where the processes share what they count."""
    status: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a process cannot be kept running; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        engine = Child("the engine process", "server.engine_process")
        gateways = [Child(f"gateway {number}", "server.gateway") for number in range(1, self.settings.workers + 1)]
        keeping = {child.name: asyncio.create_task(self._keep_running(child)) for child in [engine, *gateways]}
        await self.stopping.wait()
        # Gateways first: open sessions get their finals, and those come from the engine process.
        for children in (gateways, [engine]):
            for child in children:
                if child.process and child.process.returncode is None:
                    child.process.terminate()
            limit = self.settings.shutdown_timeout_seconds + KILL_SECONDS
            await asyncio.wait([keeping[child.name] for child in children], timeout=limit)
            for child in children:
                if child.process and child.process.returncode is None:
                    logger.error("%s did not end within %g s and is killed", child.name, limit)
                    child.process.kill()
                    await child.process.wait()
        for task in keeping.values():
            task.cancel()
        return self.status

    async def _keep_running(self, child: Child) -> None:
        while not self.stopping.is_set():
            began = time.monotonic()
            # A session of its own: a Ctrl-C in the terminal is for the supervisor to pass on.
            child.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                child.module,
                env=self.environment,
                pass_fds=[self.listener.fileno()],
                start_new_session=True,
            )
            pid = child.process.pid
            status = await child.process.wait()
            multiprocess.mark_process_dead(pid, str(self.shared))
            if self.stopping.is_set():
                return
            child.early_deaths = child.early_deaths + 1 if time.monotonic() - began < SETTLED_SECONDS else 0
            logger.error("%s (%d) ended with status %d", child.name, pid, status)
            if child.early_deaths >= EARLY_DEATHS:
                logger.error("%s died %d times soon after its start: giving up", child.name, child.early_deaths)
                self.status = 1
                self.stopping.set()
                return
            await asyncio.sleep(PAUSE_SECONDS * 2**child.early_deaths)


def run(settings: Settings) -> int:
    """Serve with settings.workers gateways; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="moonshine-asr-") as directory:  # its owner alone may look into it
        shared = Path(directory) / "metrics"
        shared.mkdir()
        listener = socket.create_server((settings.host, settings.port), backlog=BACKLOG, family=family_of(settings.host))
        environment = os.environ | {
            SOCKET_VARIABLE: f"ipc://{directory}/engine", LISTENER_VARIABLE: str(listener.fileno()), SHARED_VARIABLE: str(shared)
        }  # fmt: skip
        logger.info("%d gateways on http://%s:%d", settings.workers, settings.host, settings.port)
        with listener:
            return asyncio.run(Supervisor(settings, environment, listener, shared).run())


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
