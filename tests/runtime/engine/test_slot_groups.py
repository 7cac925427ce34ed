"""Groups of slots that work beside each other: the words are those of one alone, whoever is beside whom."""

import queue

import numpy as np
import pytest

from runtime.audio import Clip
from runtime.engine.protocol import Row
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Priority, Request
from server.stream.confidence import END_BIAS
from tests import greedy
from tests.engines import open_torch_on_cpu

LONGEST_WAIT_SECONDS = 120.0


@pytest.fixture
def grouped(built):
    return open_torch_on_cpu("fp32", built, max_batch=4, groups=2).engine


class Steps(Observer):
    """Counts the requests of each kind of step."""

    def __init__(self):
        self.rows: dict[str, list[int]] = {}

    def step(self, step, seconds, batcher) -> None:
        self.rows.setdefault(type(step).__name__, []).append(len(step.jobs))


def test_every_request_gets_its_tokens_whatever_is_in_flight_beside_it(grouped, torch_fp32, clips):
    short = [Clip(clips[index % len(clips)].samples[: (2 + index % 3) * 16_000]) for index in range(9)]
    known = [greedy.decode(torch_fp32.engine, clip).tokens for clip in short]
    observer, answers = Steps(), queue.SimpleQueue()
    loop = EngineLoop(grouped, 0.0, observer)
    for number, clip in enumerate(short):
        draft = tuple(known[number]) if number % 3 else ()
        priority = Priority.FINAL if number % 4 == 0 else Priority.INTERIM
        asked = Request(number, f"s{number}", clip, draft, priority=priority, end_bias=END_BIAS, align=number % 2 == 0)
        loop.submit(asked, answers.put)
    loop.start()
    results = [answers.get(timeout=LONGEST_WAIT_SECONDS) for _ in short]
    loop.stop()
    assert {result.request.request_id: list(result.tokens) for result in results} == dict(enumerate(known))
    aligned = [result for result in results if result.request.align]
    assert all(len(result.first_frames) == len(result.tokens) + 1 for result in aligned)
    assert len(aligned) == 5 and max(observer.rows["Decode"]) == 2, "each group by itself"


def test_what_is_in_one_group_is_not_in_the_other(grouped, clips):
    clip = Clip(clips[18].samples)
    for slot in (1, 3):
        grouped.encode([slot], [clip])
    one, other = (grouped.decode([Row(slot, (1, 739), 0)])[0] for slot in (1, 3))
    assert np.array_equal(one.log_probs, other.log_probs)
    grouped.clear(1)
    assert np.array_equal(grouped.decode([Row(3, (1, 739), 0)])[0].log_probs, other.log_probs)
    assert len(grouped.align([3], [[739]]).result()[0]) == 1
    grouped.free(3)
    with pytest.raises(ValueError, match="holds no audio"):
        grouped.decode([Row(3, (1,), 0)])


def test_a_call_of_several_groups_is_refused_by_name(grouped, clips):
    clip = Clip(clips[18].samples[:16_000])
    for slots in ([1, 2], [4], [-1]):
        with pytest.raises(ValueError, match="not of one group of 2"):
            grouped.encode(slots, [clip] * len(slots))
