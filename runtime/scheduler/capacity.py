"""Capacity of this machine: the number of live streams that an engine carries, from a few seconds of measuring."""

import time
from collections.abc import Callable

import numpy as np

from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine import known_clip
from runtime.engine.protocol import Engine, Row

SEGMENT_SECONDS = 6.0  # of audio in an update, on average: half of the longest segment
DRAFT_TOKENS = 14  # that an update verifies in one pass
SINGLE_STEPS = 3  # of the decoder, in which an update finds what is new
ROWS = 8  # updates that share these passes
MEASUREMENTS = 5
UPDATES_PER_SECOND = 1.0  # of a stream; idle machines make more
SHARE_FOR_STREAMS = 0.5
"""Share of the time for streams; the rest is for connections, finals and chance. By it two cores with VNNI carry 16; the strict
rule found 17 over WebRTC there (docs/performance.md)."""


def live_streams(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> int:
    """Measure updates as they cost under load. Returns at least 1. Slots are free before and after.

    The fastest measurement counts: what else the machine does during a build says nothing of what it carries.
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
    """Return the known clip, again and again."""
    return Clip(np.resize(known_clip.clip().samples, int(seconds * SAMPLE_RATE)))
