"""moonshine-asr bench: how many live streams this machine carries, measured over real connections in about a minute."""

import argparse
import asyncio
import contextlib
import importlib.resources
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from moonshine_client import audio_file
from moonshine_client.client import Transcription, transcribe
from moonshine_client.command_line import Parser
from moonshine_client.errors import StreamError
from moonshine_client.resend_buffer import SAMPLE_RATE

TRIAL_SECONDS = 20.0  # audio of each stream
ARRIVAL_SECONDS = 2.0  # period in which the streams of a trial begin
MOST_TRIALS = 3
STEP = 1.25  # from one number of streams to the next
UPDATE_P95_MS, FINAL_P95_MS = 500.0, 1000.0  # at most; if updates are later, the engine is behind
OF_THE_ENGINE = ("ASR_ENGINE_DIR", "ASR_TARGET", "ASR_CPU_THREADS")  # settings that determine which engine is measured
START_SECONDS = 300.0  # for a server that may have to build its engine first
RULE = (
    f"a count holds where no stream fails, 95% of updates come within {UPDATE_P95_MS:.0f} ms and 95% of finals within "
    f"{FINAL_P95_MS:,.0f} ms"
)


@dataclass(frozen=True)
class Trial:
    """Result of this many streams at once. Latencies are 95th percentiles, in milliseconds."""

    streams: int
    update_p95_ms: float
    final_p95_ms: float
    failed: int

    @property
    def holds(self) -> bool:
        return not self.failed and self.update_p95_ms <= UPDATE_P95_MS and self.final_p95_ms <= FINAL_P95_MS


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    audio = np.resize(audio_file.load(options.file or known_clip()), int(TRIAL_SECONDS * SAMPLE_RATE))
    console.print(f"Live streams for {TRIAL_SECONDS:.0f} s each, at the speed of speech; {RULE}.", highlight=False)
    with contextlib.ExitStack() as stack:
        server = options.server or stack.enter_context(own_server(console))
        trials = search(lambda streams: asyncio.run(run_trial(server, audio, streams)), options.start or estimate(), console)
    console.print(table_of(trials))
    carried = max((trial.streams for trial in trials if trial.holds), default=0)
    at_least = "at least " if trials[-1].holds and trials[0].holds else ""
    console.print(f"[bold]{at_least}{carried} live streams[/], with this program on the same cores", highlight=False)
    return 0 if carried else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr bench",
        "Measures how many live streams this machine carries, in about a minute: starts a server of its own, and "
        "streams to it over WebRTC. A trial of minutes on your own recordings is stricter.",
        ("moonshine-asr bench", "moonshine-asr bench --server asr.example.com:8000 --start 50"),
    )
    parser.add_argument("--server", metavar="HOST:PORT", help="a running server instead; its session limit applies")
    parser.add_argument("--file", type=Path, metavar="FILE", help="audio that every stream sends (default: a sentence)")
    parser.add_argument("--start", type=int, metavar="N", help="streams of the first trial (default: what the build measured)")
    return parser


def known_clip() -> Path:
    return Path(str(importlib.resources.files("runtime.engine") / "known_clip.wav"))


def search(run: Callable[[int], Trial], start: int, console: Console) -> list[Trial]:
    """Increase the number of streams while it holds, or reduce it until it does. Returns every trial."""
    trials: list[Trial] = []
    streams = max(1, start)
    while len(trials) < MOST_TRIALS and streams:
        trials.append(run(streams))
        console.print(line_of(trials[-1]), highlight=False)
        if trials[-1].holds != trials[0].holds:
            break
        streams = max(streams + 1, int(streams * STEP)) if trials[-1].holds else int(streams / STEP)
    return trials


async def run_trial(server: str, audio: np.ndarray, streams: int) -> Trial:
    async def one(number: int) -> Transcription | Exception:
        await asyncio.sleep(ARRIVAL_SECONDS * number / streams)
        try:
            return await transcribe(server, audio)
        except (StreamError, OSError) as exc:
            return exc

    outcomes = await asyncio.gather(*map(one, range(streams)))
    done = [each for each in outcomes if isinstance(each, Transcription)]
    updates = [interim["latency_ms"] for each in done for interim in each.interims]
    return Trial(streams, p95(updates), p95([1000 * each.final_seconds for each in done]), streams - len(done))


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile; infinite if there are no values."""
    if len(values) < 2:
        return values[0] if values else float("inf")
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def line_of(trial: Trial) -> str:
    return f"  {trial.streams} streams: {'holds' if trial.holds else 'too many'}"


def table_of(trials: Sequence[Trial]) -> Table:
    table = Table("streams", "update p95, ms", "final p95, ms", "failed", "")
    for trial in sorted(trials, key=lambda trial: trial.streams):
        figures = (f"{trial.update_p95_ms:,.0f}", f"{trial.final_p95_ms:,.0f}", str(trial.failed))
        table.add_row(str(trial.streams), *figures, "holds" if trial.holds else "too many")
    return table


def estimate() -> int:
    """Return the number of streams that the build measured, else four for each core."""
    printed = subprocess.run([sys.executable, "-m", "server", "--print-engine"], capture_output=True, text=True).stdout
    manifest = Path(printed.partition("\t")[0]) / "manifest.json"
    measured = json.loads(manifest.read_bytes()).get("live_streams") if printed and manifest.is_file() else 0
    return measured or 4 * (os.cpu_count() or 1)


@contextlib.contextmanager
def own_server(console: Console) -> Iterator[str]:
    """Run a server for this measurement, which admits any number of sessions. Yields HOST:PORT.

    Raises SystemExit if it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASR_") or name in OF_THE_ENGINE}
    variables = {
        "ASR_HOST": "127.0.0.1",
        "ASR_PORT": str(port),
        "ASR_MAX_SESSIONS": "10000",
        "ASR_INTERIM_INTERVAL_MS": "1000",
        "ASR_LOG_LEVEL": "warning",
        "ASR_LOG_FORMAT": "json",
    }
    console.print("Starting a server …", highlight=False)
    process = subprocess.Popen([sys.executable, "-m", "server.command"], env=inherited | variables)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(address, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start; what it said is above")
