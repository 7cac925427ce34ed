"""Ends of turns: what a threshold does to pauses and ends, and the fit of the evidence."""

import numpy as np
import pytest

from benchmarks import turn_ends
from benchmarks.turn_ends import EVIDENCE_SECONDS, MOST_SECONDS, THRESHOLDS, SpokenPause, waits
from server.stream.turn_end import NO_EVIDENCE, PauseEvidence, TextEvidence, probability_of_end

OVER = PauseEvidence(TextEvidence(False, 0.0, 0.0), 0.99)
GOES_ON = PauseEvidence(TextEvidence(True, -3.0, -2.0), 0.01)


@pytest.mark.parametrize("evidence", [NO_EVIDENCE, OVER, GOES_ON], ids=["none", "over", "goes on"])
def test_a_turn_ends_when_its_probability_reaches_the_threshold(evidence):
    found = waits(THRESHOLDS, evidence)
    assert (np.diff(found) >= 0).all()
    for threshold, seconds in zip(THRESHOLDS, found, strict=True):
        if EVIDENCE_SECONDS < seconds < MOST_SECONDS:
            assert probability_of_end(seconds, evidence) == pytest.approx(threshold, abs=1e-6)


def made(count: int, informative: bool) -> list[SpokenPause]:
    """Pauses of 0.2 to 1 s and as many ends, whose evidence says which is which, or nothing."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        is_end = number % 2 == 0
        says_end = is_end if informative and random.random() < 0.9 else random.random() < 0.5
        seconds = None if is_end else float(random.uniform(0.2, 1.0))
        found.append(SpokenPause(f"clip {number // 4}", seconds, OVER if says_end else GOES_ON))
    return found


def test_evidence_that_tells_ends_from_pauses_saves_turns_and_time_and_what_tells_nothing_does_not():
    told, untold = ({row.name: row for row in turn_ends.scores(made(400, informative))} for informative in (True, False))
    everything, silence = told["silence, text, sound"], told["silence"]
    assert everything.cut_at_target.value < silence.cut_at_target.value
    assert everything.latency_at_target.value < silence.latency_at_target.value
    assert untold["silence, text, sound"].latency_at_target.value >= untold["silence"].latency_at_target.value
    for row in told.values():
        assert row.cut_at_target.low <= row.cut_at_target.value <= row.cut_at_target.high


def test_the_fit_finds_what_tells_ends_from_pauses():
    told, untold = (turn_ends.fitted(made(400, informative)) for informative in (True, False))
    assert told["silence, sound"][-1] > 0.5 > abs(untold["silence, sound"][-1])
    assert told["silence"][1] > 1 and told["silence"][2:] == [0.0] * 4
