"""The supervisor of gateway and engine processes: it starts them, starts again those that die, and ends them in order."""

import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import multiprocess

from runtime import hardware
from server.errors import StartError
from server.parent_process import end_undrained
from server.processes import messages, place
from server.settings import SECRET_KEY_VARIABLE, Settings
from server.telemetry import heartbeat
from server.telemetry.heartbeat import Listener
from server.telemetry.metrics import SHARED_VARIABLE

logger = logging.getLogger("server.supervisor")

SETTLED_SECONDS = 20.0  # a process that ran this long died of a new cause
EARLY_DEATHS = 5  # deaths in a row, each within SETTLED_SECONDS: another start would not help
PAUSE_SECONDS = 0.5  # before a process is started again; doubles with every early death
MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un without its closing zero
KILL_SECONDS = 15.0  # beyond its own limit, for a process to end after its signal


@dataclass
class ChildProcess:
    """A process that must run for as long as the server."""

    name: str
    module: str
    variables: Mapping[str, str]
    """Its environment variables, in addition to the server's."""
    heartbeat: Path
    """File that is touched while the process's event loop runs."""
    process: asyncio.subprocess.Process | None = None
    early_deaths: int = 0

    def beats(self) -> int:
        try:
            return self.heartbeat.stat().st_mtime_ns
        except OSError:  # there was no beat yet
            return 0

    def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()


@dataclass
class Supervisor:
    """The supervisor of one server."""

    settings: Settings
    directory: Path
    """Directory of the processes' sockets and shared metrics; only its owner may read it."""
    status: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _signal: signal.Signals = signal.SIGTERM
    """Signal that began the shutdown. SIGINT, unlike SIGTERM, does not drain."""
    _draining: list[ChildProcess] = field(default_factory=list)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until a process cannot be kept running; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        end_undrained()
        engines, gateways = self._engines(), self._gateways()
        keeping = {child.name: asyncio.create_task(self._keep_running(child)) for child in [*engines, *gateways]}
        await self.stopping.wait()
        # Gateways first: open sessions get their finals, which come from the engine processes.
        listening = self.settings.listen
        for children in (gateways, engines):
            self._draining = children if children is gateways else []
            pass_on(self._signal if children is gateways else signal.SIGTERM, children)
            limit = listening.shutdown_timeout_seconds + KILL_SECONDS + (listening.drain_seconds if children is gateways else 0)
            await asyncio.wait([keeping[child.name] for child in children], timeout=limit)
            for child in children:
                if child.process and child.process.returncode is None:
                    logger.error("%s did not end within %g s and is killed", child.name, limit)
                    child.kill()
                    await child.process.wait()
        for task in keeping.values():
            task.cancel()
        return self.status

    def _on_signal(self, number: signal.Signals) -> None:
        """Begin the shutdown at the first signal; later ones end the gateways' draining early."""
        if self.stopping.is_set():
            pass_on(number, self._draining)
        else:
            self._signal = number
            self.stopping.set()

    @property
    def _shared(self) -> Path:
        return self.directory / "metrics"

    def _addresses(self) -> list[str]:
        count = self.settings.model.engines or max(1, len(hardware.visible_gpus()))
        return [f"ipc://{self.directory}/engine-{number}" for number in range(1, count + 1)]

    def _engines(self) -> list[ChildProcess]:
        """Make the engine processes. If there are GPUs, each process sees only one."""
        devices, children = hardware.visible_gpus(), []
        for number, address in enumerate(self._addresses()):
            variables = {messages.SOCKET_VARIABLE: address, SHARED_VARIABLE: str(self._shared)}
            if devices:
                variables[hardware.DEVICES_VARIABLE] = devices[number % len(devices)]
            children.append(self._child(f"engine process {number + 1}", "server.processes.engine_process", variables))
        return children

    def _gateways(self) -> list[ChildProcess]:
        variables = {
            messages.SOCKET_VARIABLE: " ".join(self._addresses()),
            SHARED_VARIABLE: str(self._shared),
            SECRET_KEY_VARIABLE: self.settings.access.signing_key,
        }
        return [
            self._child(
                f"gateway {number}",
                "server.processes.gateway",
                variables | {place.SOCKET_VARIABLE: str(place.GatewayPlace(self.directory, number).path)},
            )
            for number in range(1, self.settings.listen.workers + 1)
        ]

    def _child(self, name: str, module: str, variables: Mapping[str, str]) -> ChildProcess:
        path = self.directory / f"{name}.heartbeat"
        return ChildProcess(name, module, {**variables, heartbeat.PATH_VARIABLE: str(path)}, path)

    async def _keep_running(self, child: ChildProcess) -> None:
        """Keep a child running until the server stops. An error here stops the server: a child must not run unwatched."""
        try:
            await self._start_again_and_again(child)
        except Exception:
            logger.exception("%s is no longer watched; the server stops", child.name)
            self.status = 1
            self.stopping.set()

    async def _start_again_and_again(self, child: ChildProcess) -> None:
        while not self.stopping.is_set():
            began = time.monotonic()
            status = await self._run_once(child)
            if self.stopping.is_set():
                return
            child.early_deaths = child.early_deaths + 1 if time.monotonic() - began < SETTLED_SECONDS else 0
            logger.error("%s ended: %s", child.name, status)
            if child.early_deaths >= EARLY_DEATHS:
                logger.error("%s died %d times soon after its start: giving up", child.name, child.early_deaths)
                self.status = 1
                self.stopping.set()
                return
            await asyncio.sleep(PAUSE_SECONDS * 2**child.early_deaths)

    async def _run_once(self, child: ChildProcess) -> str:
        """Run the child once; returns how it ended."""
        command = [sys.executable, "-m", child.module]
        child.heartbeat.unlink(missing_ok=True)
        try:
            # The child has its own session: the supervisor passes on a Ctrl-C of the terminal.
            child.process = await asyncio.create_subprocess_exec(
                *command, env=os.environ | child.variables, start_new_session=True
            )
        except OSError as exc:  # for example, no memory is left
            return f"it could not be started: {exc}"
        if self.stopping.is_set():
            child.process.terminate()
        listening = asyncio.create_task(listen_to(child))
        status = await child.process.wait()
        listening.cancel()
        multiprocess.mark_process_dead(child.process.pid, str(self._shared))
        return f"exit status {status}"


async def listen_to(child: ChildProcess) -> None:
    """Kill a child if it or its event loop has stopped: clients would continue to connect to it."""
    listener = Listener(child.beats, lambda: logger.error("%s has stalled", child.name), child.kill)
    while True:
        await asyncio.sleep(heartbeat.BEAT_SECONDS)
        listener.look(heartbeat.BEAT_SECONDS)


def pass_on(number: signal.Signals, children: list[ChildProcess]) -> None:
    for child in children:
        if child.process and child.process.returncode is None:
            child.process.send_signal(number)


def run(settings: Settings) -> int:
    """Serve with several gateways; returns the exit status. Raises StartError."""
    listening = settings.listen
    with tempfile.TemporaryDirectory(prefix="moonshine-asr-") as name:
        directory = Path(name)
        check_length(directory)
        (directory / "metrics").mkdir()
        logger.info("%d gateways on http://%s", listening.workers, listening.address)
        return asyncio.run(Supervisor(settings, directory).run())


def check_length(directory: Path) -> None:
    """Raises StartError if the directory's path is too long for sockets."""
    longest = len(os.fsencode(messages.pulse_address(str(directory / "engine-64"))))
    if longest > MAX_SOCKET_PATH_BYTES:
        raise StartError(f"TMPDIR is too long: a socket's path would have {longest} bytes, and {MAX_SOCKET_PATH_BYTES} may be")
