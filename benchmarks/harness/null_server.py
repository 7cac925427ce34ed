"""The server with an engine that does nothing, for measuring everything else: python -m benchmarks.harness.null_server

The first 8 bytes of a message are read as the time of its sending, in nanoseconds of the machine's monotonic clock.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prometheus_client import Gauge, Histogram

from runtime.audio import Clip
from runtime.engine.protocol import Answered, Engine, Limits, Prediction, Row
from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server import serving
from server.sessions.seat import Seat
from server.settings import Settings
from server.startup import listen_everywhere, started
from server.telemetry.metrics import Metrics

START_TOKEN, END_TOKEN = 1, 2
HANDLING_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
STAMP_BYTES = 8


class NullEngine(Engine):
    """Returns no words, immediately."""

    name = "null"

    def __init__(self, max_batch: int):
        self.limits = Limits(max_batch, 29 * 16_000, 194, max_batch, START_TOKEN, END_TOKEN)

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        pass

    def launch(self, rows: Sequence[Row]) -> Answered:
        ended = np.array([END_TOKEN])
        return Answered([Prediction(np.repeat(ended, len(row.tokens)), np.zeros(len(row.tokens), np.float32)) for row in rows])

    def free(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


def observe_handling(metrics: Metrics) -> None:
    """Measure the age of every binary message when it is handled, and report this process's memory and time."""
    handling = Histogram(
        "bench_handling_seconds", "From sending to handling", buckets=HANDLING_SECONDS, registry=metrics.registry
    )
    memory = Gauge("bench_memory_bytes", "Resident", registry=metrics.registry)
    memory.set_function(resident_bytes)
    Gauge("bench_cpu_seconds", "Of this process", registry=metrics.registry).set_function(time.process_time)
    receive = Seat.receive_audio

    def receive_audio(seat: Seat, pcm: bytes) -> None:
        receive(seat, pcm)
        handling.observe((time.monotonic_ns() - int.from_bytes(pcm[:STAMP_BYTES], "little")) / 1e9)

    Seat.receive_audio = receive_audio


def resident_bytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096.0


def run(settings: Settings) -> int:
    metrics = Metrics()
    observe_handling(metrics)
    engine_loop = EngineLoop(NullEngine(settings.batching.max_batch), settings.batching.max_wait_ms / 1000, metrics)
    listeners = listen_everywhere(settings.listen)
    return serving.serve(settings, engine_loop, Tokenizer(["", "", ""]), metrics, listeners)


if __name__ == "__main__":
    sys.exit(started(run))
