"""A server of this checkout in its own process, for benchmarks and tests."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parent.parent
PORTS = range(21_000, 32_000)  # the kernel gives none of these to a client before the server that is to have it has started
START_SECONDS = 60.0  # for a server to be ready
STOP_SECONDS = 40.0


@contextlib.contextmanager
def running_server(engines: Path, precision: str, variables: dict[str, str]) -> Iterator[str]:
    """Run python -m server; yields HOST:PORT when it is ready. Raises RuntimeError if it does not start."""
    address = free_address()
    own = {
        "ASR_ENGINE_DIR": str(engines.resolve()),
        "MOONSHINE_PRECISION": precision,
        "ASR_LOG_LEVEL": "warning",
        "ASR_MAX_SESSIONS": "12",
    }
    with running_process(["-m", "server"], address, own | variables):
        yield address


@contextlib.contextmanager
def running_process(
    arguments: Sequence[str], address: str, variables: dict[str, str], log: Path | None = None, checkout: Path = PROJECT
) -> Iterator[subprocess.Popen]:
    """Run this Python with arguments, and yield the process when it serves at the address. log: file for its stderr.
    checkout: directory whose code runs.

    Raises RuntimeError if it does not start.
    """
    host, _, port = address.rpartition(":")
    environment = os.environ | {"ASR_HOST": host, "ASR_PORT": port} | variables
    output = log.open("w") if log else None
    process = subprocess.Popen([sys.executable, *arguments], cwd=checkout, env=environment, stderr=output)
    try:
        wait_until_ready(address, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if output:
                output.close()


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def free_port() -> int:
    """Return a TCP port that nobody listens at. Raises RuntimeError if none is found."""
    for port in random.sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    raise RuntimeError(f"no port from {PORTS[0]} to {PORTS[-1]} is free")


def wait_until_ready(address: str, process: subprocess.Popen, timeout_seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + timeout_seconds
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server at {address} was not ready within {timeout_seconds:g} s")
