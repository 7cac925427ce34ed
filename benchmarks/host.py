"""Measures the cost of Python before a device: microseconds of the engine loop, and live streams on a modelled device.

The batcher, the loop, the sessions and the processes are the real ones. The device is modelled: see modelled_device.py.
"""

import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.modelled_device import Costs, open_modelled, words_of
from benchmarks.speakers import engine_process, try_in_processes
from benchmarks.trial import Outcome, Trial
from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine.manifest import ONNXRUNTIME
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.requests import Request, Result
from server.telemetry.metrics import Metrics

PROJECT = Path(__file__).resolve().parent.parent
CLIP_SECONDS, DRAFT_TOKENS, UNHEARD_SECONDS = 6.6, 25, 1.12  # of an update, means of measured values
MAX_SECONDS = 13.0
ROUNDS, REPEATS = 30, 5
H100 = Costs(
    encode_ms=0.8, encode_second_ms=8.4 / 320, verify_ms=0.6, verify_token_ms=4.0 / 4096, step_ms=0.6, step_row_ms=0.68 / 128
)
"""Costs measured on an H100 (results/engine-h100.md): encoding 32 x 10 s takes 9.2 ms, verifying 128 x 32 tokens 4.6 ms, a step
of 128 rows 1.3 ms."""


@dataclass(frozen=True)
class LoopCost:
    """Cost of the engine loop on a device that takes no time: medians of several runs, in microseconds."""

    batch: int
    engine_loop_us_per_update: float
    encode_us_per_update: float
    """Part of it that sends the audio to the engine."""
    launch_us_per_update: float
    """Part of it that plans passes and launches them."""
    answer_us_per_update: float
    """Part of it that reads their answers. The rest decides, and answers requests."""


class Stopwatch:
    """Measures the seconds spent in functions that it wraps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, function: Callable, name: str) -> Callable:
        def timed(*arguments: object) -> object:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return timed


def engine_loop_cost(batch: int, rounds: int = ROUNDS, repeats: int = REPEATS) -> LoopCost:
    runs = [run_engine_loop(batch, rounds) for _ in range(repeats)]
    return LoopCost(batch, *(round(statistics.median(column), 1) for column in zip(*runs, strict=True)))


def run_engine_loop(batch: int, rounds: int) -> tuple[float, float, float, float]:
    """Return microseconds per update: all, encode, launch, answer. Twice as many streams as rows have an update waiting."""
    engine, watch = open_modelled(batch, MAX_SECONDS, Costs()), Stopwatch()
    launch = engine.launch

    def launch_watched(rows: Sequence) -> object:
        pending = launch(rows)
        pending.result = watch.around(pending.result, "answer")
        return pending

    engine.encode, engine.launch = watch.around(engine.encode, "encode"), watch.around(launch_watched, "launch")
    loop = EngineLoop(engine, 0.0, Metrics())
    clip = Clip(np.zeros(int(CLIP_SECONDS * SAMPLE_RATE), np.int16))
    draft, numbers = words_of(CLIP_SECONDS)[:DRAFT_TOKENS], itertools.count()
    left, is_done = batch * rounds, threading.Event()

    def ask(stream_id: str) -> None:
        loop.submit(Request(next(numbers), stream_id, clip, draft=draft, uncovered_seconds=UNHEARD_SECONDS), answered)

    def answered(result: Result) -> None:
        nonlocal left
        left -= 1
        if left >= len(streams):
            ask(result.request.stream_id)
        elif not left:
            is_done.set()

    streams = [str(number) for number in range(2 * batch)]
    for stream_id in streams:
        loop.open_stream(stream_id)
        ask(stream_id)
    began = time.perf_counter()
    loop.start()
    is_done.wait()
    seconds = time.perf_counter() - began
    loop.stop()
    parts = (seconds, *(watch.seconds[name] for name in ("encode", "launch", "answer")))
    return tuple(part / (batch * rounds) * 1e6 for part in parts)


@dataclass(frozen=True)
class ProcessCost:
    """Cost of an engine process that gateways keep busy, including its messages, on its own core."""

    code: str
    """Version of the code: now, or before."""
    batch: int
    device: str
    """Time of the modelled device: no time, or that of an H100."""
    updates_per_second: float
    engine_process_us: float
    """Processor time of an update in the engine process."""
    gateway_us: float
    """Processor time of an update in the gateway, without its session."""


def process_costs(
    batches: Sequence[int], seconds: float, costs: Costs, earlier: Path | None, rounds: int
) -> Iterator[ProcessCost]:
    """Yield one figure for each batch, device and code: the median of the rounds, in which the codes alternate.

    earlier: a checkout of earlier code.
    """
    for batch, (device, taken) in itertools.product(batches, (("no time", Costs()), ("H100", costs))):
        codes = {"now": PROJECT} | ({"before": earlier.resolve()} if earlier else {})
        found: dict[str, list[dict[str, float]]] = {code: [] for code in codes}
        for _ in range(rounds):
            for code, checkout in codes.items():
                found[code].append(run_engine_process(checkout, batch, seconds, taken))
        for code, each in found.items():
            yield ProcessCost(code, batch, device, **{name: statistics.median(one[name] for one in each) for name in each[0]})


def run_engine_process(checkout: Path, batch: int, seconds: float, costs: Costs) -> dict[str, float]:
    load, device = PROJECT / "benchmarks/engine_process_load.py", json.dumps(dataclasses.asdict(costs))
    command = [sys.executable, str(load), str(checkout), str(batch), str(seconds), device]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def trial_of(engines: Path, precision: str, interval_ms: float, workers: int, max_batch: int, seconds: float) -> Trial:
    """engines, precision: the place of the tokenizer."""
    return Trial(
        "processes", 0, seconds, interval_ms, str(engines.resolve()), ONNXRUNTIME, precision, workers=workers, max_batch=max_batch
    )


def try_streams(settings: Trial, counts: Sequence[int], costs: Costs) -> Iterator[tuple[Trial, Outcome]]:
    """Run a trial in processes for each count, on one modelled device, until one fails."""
    settings = dataclasses.replace(settings, modelled=dataclasses.asdict(costs))
    with engine_process(settings) as engine:
        for streams in counts:
            trial = dataclasses.replace(settings, streams=streams)
            outcome = try_in_processes(trial, {}, engine)
            yield trial, outcome
            if outcome.broken:
                return
