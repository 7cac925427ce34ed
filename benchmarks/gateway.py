"""Measures the gateway without an engine: CPU time per message, sessions per core, memory per session."""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.servers import free_address, running_process
from moonshine_client.client import StreamingClient
from server.transports.webrtc.peer import LINGER_SECONDS

PROJECT = Path(__file__).resolve().parent.parent
P99_LIMIT_MS = 20.0
SETTLE_SECONDS = 1.0
TORN_DOWN_SECONDS = 2 * LINGER_SECONDS  # time after which the last connections are closed


@dataclass(frozen=True)
class GatewayLoad:
    """Figures of `sessions` sessions on one core."""

    way: str
    """Transport: data channel or websocket."""
    code: str
    """Version of the code: now, or before."""
    sessions: int
    frame_ms: float
    messages: int
    cpu_us: float
    """Processor time of the server process for each message: its transport, the session and the engine thread's share."""
    core_share: float
    handling_p50_ms: float
    handling_p99_ms: float
    """Time from sending to the end of handling, including the sender and the kernel; upper edge of the histogram's bucket."""
    sender_behind_ms: float
    """Largest delay of the generator itself behind real time."""
    memory_kib: float
    """Memory of each idle session, beyond that of a server without sessions."""
    messages_lost: int

    @property
    def session_ms(self) -> float:
        """Milliseconds of processor time that a second of one session takes."""
        return 1000 * self.core_share / self.sessions

    def as_json(self) -> dict:
        return dataclasses.asdict(self) | {"session_ms": round(self.session_ms, 2)}


@dataclass(frozen=True)
class Churn:
    """Sessions opened and closed one after another."""

    sessions: int
    memory_before_mib: float
    """Memory after as many earlier sessions, because a young heap still grows."""
    memory_after_mib: float
    growth: float
    """Relative growth."""
    connect_ms: float
    """Mean time to open a session, on both sides."""


@contextlib.contextmanager
def null_server(checkout: Path = PROJECT) -> Iterator[str]:
    address = free_address()
    variables = {
        "ASR_MAX_SESSIONS": "100000",
        "ASR_LOG_LEVEL": "warning",
        "ASR_IDLE_TIMEOUT_SECONDS": "600",
        "ASR_ICE_SERVERS": "",
    }
    with running_process(["-m", "benchmarks.harness.null_server"], address, variables, checkout=checkout) as process:
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(process.pid, {0})
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {0})
        yield address


def read(address: str) -> dict[str, float]:
    """Return the bench_ samples of the null server's page, buckets by their edge."""
    text = httpx.get(f"http://{address}/metrics", trust_env=False).text
    return {
        sample.name + (f":{sample.labels['le']}" if "le" in sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("bench_")
    }


def measure(way: str, sessions: int, seconds: float, frame_ms: float, earlier: Path | None = None) -> GatewayLoad:
    """Measure one count of sessions against a fresh server. earlier: a checkout of earlier code, which runs instead."""
    with null_server(earlier or PROJECT) as address:
        empty = read(address)["bench_memory_bytes"]
        command = [sys.executable, "-m", "benchmarks.gateway_load", address, way, str(sessions), str(seconds), str(frame_ms)]
        with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
            expect(load, "connected")
            time.sleep(SETTLE_SECONDS)
            before = read(address)
            began = time.monotonic()
            load.stdin.write("\n")
            load.stdin.flush()
            said = expect(load, "sent")
            took = time.monotonic() - began
            time.sleep(SETTLE_SECONDS)
            after = read(address)
            load.stdin.write("\n")
            load.stdin.flush()
            load.wait(timeout=60)
    change = {name: after[name] - before.get(name, 0.0) for name in after}
    messages = int(change["bench_handling_seconds_count"])
    return GatewayLoad(
        way=way,
        code="before" if earlier else "now",
        sessions=sessions,
        frame_ms=frame_ms,
        messages=messages,
        cpu_us=round(change["bench_cpu_seconds"] / max(1, messages) * 1e6, 1),
        core_share=round(change["bench_cpu_seconds"] / took, 3),
        handling_p50_ms=quantile_ms(change, messages, 0.5),
        handling_p99_ms=quantile_ms(change, messages, 0.99),
        sender_behind_ms=round(float(said.split()[1]) * 1000, 1),
        memory_kib=round((before["bench_memory_bytes"] - empty) / sessions / 1024, 1),
        messages_lost=sessions * int(seconds / (frame_ms / 1000)) - messages,
    )


def expect(load: subprocess.Popen, word: str) -> str:
    line = load.stdout.readline()
    if not line.startswith(word):
        raise RuntimeError(f"the load generator said {line!r} instead of {word!r}")
    return line


def quantile_ms(change: dict[str, float], messages: int, share: float) -> float:
    """Return the upper edge of the bucket that holds the quantile."""
    edges = sorted((float(name.partition(":")[2]), count) for name, count in change.items() if "_bucket:" in name)
    return next((edge * 1000 for edge, count in edges if count >= share * messages), float("inf"))


def churn(sessions: int, progress: Callable[[str], None]) -> Churn:
    """Open and close this many sessions, a few at a time, and compare the server's memory."""
    with null_server() as address:

        async def one(places: asyncio.Semaphore) -> None:
            async with places, StreamingClient(address) as client:
                await client.send(bytes(3200))
                await client.close()

        async def many(count: int) -> float:
            places, began = asyncio.Semaphore(4), time.monotonic()
            await asyncio.gather(*(one(places) for _ in range(count)))
            return time.monotonic() - began

        progress(f"{sessions} sessions opened and closed, until the heap has its size")
        asyncio.run(many(sessions))
        time.sleep(TORN_DOWN_SECONDS)
        before = read(address)["bench_memory_bytes"]
        progress(f"and {sessions} more")
        seconds = asyncio.run(many(sessions))
        time.sleep(TORN_DOWN_SECONDS)
        after = read(address)["bench_memory_bytes"]
    return Churn(
        sessions,
        round(before / 2**20, 1),
        round(after / 2**20, 1),
        round(after / before - 1, 4),
        round(seconds / sessions * 1000, 1),
    )


def run(
    ways: Sequence[str],
    counts: Sequence[int],
    seconds: float,
    lengths_ms: Sequence[float],
    progress: Callable[[str], None],
    earlier: Path | None = None,
    rounds: int = 1,
) -> Iterator[GatewayLoad]:
    """Yield the median round by processor time. earlier: a checkout of earlier code, measured in turn with this one."""
    codes = (None,) if earlier is None else (earlier, None)
    for way, sessions, frame_ms in itertools.product(ways, counts, lengths_ms):
        measured: dict[Path | None, list[GatewayLoad]] = {code: [] for code in codes}
        for number, code in itertools.product(range(rounds), codes):
            progress(f"{way}: {sessions} sessions of {frame_ms:g} ms frames, round {number + 1} of {rounds}")
            measured[code].append(measure(way, sessions, seconds, frame_ms, code))
        for loads in measured.values():
            yield sorted(loads, key=lambda load: load.cpu_us)[len(loads) // 2]
