"""A server of this checkout in a process of its own, for benchmarks and tests."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0  # for a server to be ready
STOP_SECONDS = 40.0


@contextlib.contextmanager
def running_server(engines: Path, precision: str, variables: dict[str, str]) -> Iterator[str]:
    """python -m server, ready; yields HOST:PORT. Raises RuntimeError where it does not start."""
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
    """This Python with arguments, serving at the address; ready. log: takes what it says. checkout: whose code runs.

    Raises RuntimeError where it does not start.
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until_ready(address: str, process: subprocess.Popen, timeout_seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + timeout_seconds
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server at {address} was not ready within {timeout_seconds:g} s")
