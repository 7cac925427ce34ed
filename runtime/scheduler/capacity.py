"""Capacity of this machine: the number of live streams that an engine can serve, measured in a few seconds."""

import time
from collections.abc import Callable

import numpy as np

from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine import known_clip
from runtime.engine.protocol import Engine, Row

SEGMENT_SECONDS = 6.0  # audio of an average update: half of the longest segment
DRAFT_TOKENS = 14  # tokens that an update verifies in one pass
SINGLE_STEPS = 3  # decoder steps of one token, in which an update finds new words
ROWS = 8  # updates that share these passes
MEASUREMENTS = 5
UPDATES_PER_SECOND = 1.0  # per stream; an idle machine makes more
SHARE_FOR_STREAMS = 0.5
"""Share of the time for streams; the rest is for connections, finals and variation. It gives 16 streams for two cores with VNNI;
the strict rule found 17 over WebRTC there (docs/performance.md)."""


def live_streams(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> int:
    """Measure the cost of updates under load and return the number of streams, at least 1. Slots are free before and after.

    The fastest measurement counts: other work of the machine during a build must not lower the result.
    """
    rows = min(ROWS, engine.limits.max_batch)
    fastest = min(update_seconds(engine, rows, clock) for _ in range(MEASUREMENTS))
    return max(1, int(SHARE_FOR_STREAMS / (UPDATES_PER_SECOND * fastest)))


def update_seconds(engine: Engine, rows: int, clock: Callable[[], float]) -> float:
    """Return the time that one update takes when `rows` of them share the decoder's passes."""
    slots, start = range(rows), engine.limits.start_token
    if engine.limits.continues_clips:
        engine.encode(slots, [long_clip(SEGMENT_SECONDS - 1 / UPDATES_PER_SECOND)] * rows)
    began = clock()
    engine.encode(slots, [long_clip(SEGMENT_SECONDS)] * rows)
    engine.decode([Row(slot, (start,) * DRAFT_TOKENS, 0) for slot in slots])
    for step in range(SINGLE_STEPS):
        engine.decode([Row(slot, (start,), DRAFT_TOKENS + step) for slot in slots])
    seconds = (clock() - began) / rows
    for slot in slots:
        engine.free(slot)
    return seconds


def long_clip(seconds: float) -> Clip:
    """Return the known clip, repeated up to this length."""
    return Clip(np.resize(known_clip.clip().samples, int(seconds * SAMPLE_RATE)))
