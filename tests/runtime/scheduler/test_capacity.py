"""How many live streams an engine carries, by a clock that the test moves."""

import numpy as np
import pytest

from runtime.engine.protocol import Limits, Prediction
from runtime.scheduler import capacity


class TimedEngine:
    """Takes a time for each clip and each pass, and holds what it was given to the protocol."""

    def __init__(self, clip_seconds: float, pass_seconds: float, max_batch: int = 32, continues: bool = False):
        self.now, self._clip_seconds, self._pass_seconds = 0.0, clip_seconds, pass_seconds
        self.limits = Limits(max_batch, 480_000, 194, 1, start_token=1, end_token=2, continues_clips=continues)
        self.held: dict[int, int] = {}

    def encode(self, slots, clips):
        """A clip takes its time for each six seconds that are new."""
        for slot, clip in zip(slots, clips, strict=True):
            known = self.held.get(slot, 0) if self.limits.continues_clips else 0
            self.now += self._clip_seconds * (len(clip.samples) - known) / 96_000
            self.held[slot] = len(clip.samples)

    def decode(self, rows):
        assert {row.slot: 96_000 for row in rows} == self.held, "six seconds each"
        self.now += self._pass_seconds
        return [Prediction(np.zeros(len(row.tokens), np.int64), np.zeros(len(row.tokens))) for row in rows]

    def free(self, slot):
        del self.held[slot]


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


def test_an_update_of_a_streaming_model_costs_its_new_second():
    engine = TimedEngine(0.375, 0.0, continues=True)
    assert capacity.live_streams(engine, lambda: engine.now) == 8, "half of the time, a sixth of six seconds for each update"
