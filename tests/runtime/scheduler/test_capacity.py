"""How many live streams an engine carries, by a clock that the test moves."""

import numpy as np
import pytest

from runtime.engine.protocol import Prediction
from runtime.scheduler import capacity


class TimedEngine:
    """Takes a time for each clip and each pass, and holds what it was given to the protocol."""

    def __init__(self, clip_seconds: float, pass_seconds: float, max_batch: int = 32):
        self.now, self._clip_seconds, self._pass_seconds = 0.0, clip_seconds, pass_seconds
        self.limits = type("Limits", (), {"max_batch": max_batch, "start_token": 1})
        self.held: set[int] = set()

    def encode(self, slots, clips):
        assert all(len(clip.samples) == 96_000 for clip in clips), "six seconds each"
        self.now += self._clip_seconds * len(clips)
        self.held |= set(slots)

    def decode(self, rows):
        assert {row.slot for row in rows} == self.held
        self.now += self._pass_seconds
        return [Prediction(np.zeros(len(row.tokens), np.int64), np.zeros(len(row.tokens))) for row in rows]

    def free(self, slot):
        self.held.remove(slot)


@pytest.mark.parametrize(
    ("clip_seconds", "pass_seconds", "streams"),
    [
        (0.0625, 0.0, 8),  # half of the time, 16 updates a second
        (0.0, 0.125, 8),  # four passes of 0.125 s for eight updates
        (0.03, 0.02, 12),  # 0.03 s and an eighth of 0.08 s
        (2.0, 0.0, 1),  # one at least
    ],
)
def test_streams_follow_from_what_an_update_takes(clip_seconds, pass_seconds, streams):
    engine = TimedEngine(clip_seconds, pass_seconds)
    assert capacity.live_streams(engine, clock=lambda: engine.now) == streams
    assert not engine.held, "every slot is free again"


def test_a_small_engine_is_measured_with_as_many_rows_as_it_has():
    engine = TimedEngine(0.0, 0.125, max_batch=2)
    assert capacity.live_streams(engine, clock=lambda: engine.now) == 2, "two updates share four passes"
