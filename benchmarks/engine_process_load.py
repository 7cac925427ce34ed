"""A gateway that keeps an engine process busy: python benchmarks/engine_process_load.py CHECKOUT BATCH SECONDS COSTS

The code of CHECKOUT runs on both sides, with a modelled device. Twice as many streams as rows always have an update waiting.
Prints JSON: updates a second, and microseconds of processor time of an update on either side.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.speakers import EngineProcess

HEARD_SECONDS, SEGMENT_SECONDS = 1.12, 12.0  # of new audio; of the longest clip
READY_SECONDS, WARM_SECONDS = 60.0, 1.0


class Load:
    """Streams whose segments grow with each update, and begin again when they have reached the longest length."""

    def __init__(self, engine, streams: int):
        import numpy as np

        from benchmarks.modelled_device import words_of
        from runtime.audio import SAMPLE_RATE, Clip
        from runtime.scheduler.requests import Request

        self._engine, self._clip, self._request = engine, Clip, Request
        self._numbers = itertools.count()
        self._pcm = np.zeros(int(SEGMENT_SECONDS * SAMPLE_RATE), np.int16)
        self._heard = int(HEARD_SECONDS * SAMPLE_RATE)
        self._words_of = words_of
        self._ends = {str(number): self._heard * (1 + number % 10) for number in range(streams)}
        self._starts = dict.fromkeys(self._ends, 0)
        self.answered = 0

    def begin(self) -> None:
        for stream_id in self._ends:
            self._engine.open_stream(stream_id, sys.exit)
            self._ask(stream_id)

    def _ask(self, stream_id: str) -> None:
        start, end = self._starts[stream_id], self._ends[stream_id] + self._heard
        if end - start > len(self._pcm):
            start = self._starts[stream_id] = end - self._heard
        self._ends[stream_id] = end
        clip = self._clip(self._pcm[: end - start], start)
        draft = self._words_of(clip.seconds - HEARD_SECONDS)
        request = self._request(next(self._numbers), stream_id, clip, draft=draft, uncovered_seconds=HEARD_SECONDS)
        self._engine.submit(request, self._take)

    def _take(self, result) -> None:
        if result.error is not None:
            sys.exit(str(result.error))
        self.answered += 1
        self._ask(result.request.stream_id)


async def measure(process: "EngineProcess", batch: int, seconds: float) -> dict[str, float]:
    """Raises RuntimeError if the engine process is not ready in time."""
    from runtime.scheduler.transcriber import Status
    from server.processes.remote_engine import RemoteEngine

    engine, deadline = RemoteEngine([process.address]), time.monotonic() + READY_SECONDS
    running = asyncio.create_task(engine.run())
    while engine.status() is not Status.READY:
        if process.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the engine process was not ready")
        await asyncio.sleep(0.05)
    load = Load(engine, 2 * batch)
    load.begin()
    await asyncio.sleep(WARM_SECONDS)
    answered, began = load.answered, time.monotonic()
    engine_seconds, own_seconds = process.cpu_seconds, time.process_time()
    await asyncio.sleep(seconds)
    updates = max(1, load.answered - answered)
    found = {
        "updates_per_second": round(updates / (time.monotonic() - began), 1),
        "engine_process_us": round((process.cpu_seconds - engine_seconds) / updates * 1e6, 1),
        "gateway_us": round((time.process_time() - own_seconds) / updates * 1e6, 1),
    }
    running.cancel()
    engine.stop()
    return found


def run(batch: int, seconds: float, costs: str) -> dict[str, float]:
    from benchmarks.speakers import engine_process
    from benchmarks.trial import Trial
    from runtime.engine.manifest import ONNXRUNTIME

    trial = Trial("processes", 0, seconds, 0.0, "", ONNXRUNTIME, "fp32", max_batch=batch, modelled=json.loads(costs))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # which the engine process inherits
    with engine_process(trial) as process:
        os.sched_setaffinity(0, cores[-1:])
        return asyncio.run(measure(process, batch, seconds))


def main() -> None:
    checkout, batch, seconds, costs = sys.argv[1:]
    sys.path[0] = checkout  # instead of this file's folder
    print(json.dumps(run(int(batch), float(seconds), costs)))


if __name__ == "__main__":
    main()
