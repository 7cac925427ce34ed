"""The engine loop's thread: every request is answered once, also when the engine fails, hangs or stops."""

import queue
import threading

import numpy as np
import pytest

from runtime.audio import Clip
from runtime.engine import Limits, Prediction
from runtime.exceptions import EngineFailed, EngineStopped, RequestCancelled
from runtime.loop import FAILURES_TO_GIVE_UP, EngineLoop
from runtime.observer import Observer
from runtime.requests import Request

CLIP = Clip(np.zeros(16_000, np.int16))
LONGEST_WAIT_SECONDS = 10.0


class FakeEngine:
    """Says one token and ends. `before_step` runs at the start of every encode and decode, and may raise or block."""

    name = "fake"

    def __init__(self, before_step=lambda what: None):
        self.limits = Limits(max_batch=4, max_samples=32_000, max_positions=194, encode_rows=1, start_token=1, end_token=2)
        self.busy: set[int] = set()
        self.closed = False
        self._before_step = before_step

    def encode(self, slots, clips):
        self._before_step("encode")
        self.busy.update(slots)

    def decode(self, rows):
        self._before_step("decode")
        assert {row.slot for row in rows} <= self.busy
        return [Prediction(np.array([2 if row.past_length else 9] * len(row.tokens)), np.zeros(len(row.tokens))) for row in rows]

    def free(self, slot):
        self.busy.discard(slot)

    def close(self):
        self.closed = True


@pytest.fixture
def start():
    """Starts a loop on an engine; ends it after the test."""
    loops = []

    def start_loop(engine) -> tuple[EngineLoop, queue.SimpleQueue]:
        loop = EngineLoop(engine, max_wait_seconds=0.0, observer=Observer())
        loops.append(loop)
        loop.start()
        return loop, queue.SimpleQueue()

    yield start_loop
    for loop in loops:
        loop.stop()


def request(number: int) -> Request:
    return Request(number, f"s{number}", CLIP)


def test_requests_are_answered_and_slots_given_back(start):
    engine = FakeEngine()
    loop, answers = start(engine)
    for number in range(20):
        loop.submit(request(number), answers.put)
    results = [answers.get(timeout=LONGEST_WAIT_SECONDS) for _ in range(20)]
    assert sorted(result.request.request_id for result in results) == list(range(20))
    assert all(result.tokens == (9,) and result.error is None for result in results)
    loop.stop()
    assert not engine.busy and engine.closed


def test_a_failing_step_fails_its_requests_by_name_and_the_loop_goes_on(start):
    failures = iter([RuntimeError("out of memory")])

    def fail_once(what: str) -> None:
        if what == "decode" and (error := next(failures, None)):
            raise error

    loop, answers = start(FakeEngine(fail_once))
    loop.submit(request(0), answers.put)
    failed = answers.get(timeout=LONGEST_WAIT_SECONDS)
    assert isinstance(failed.error, EngineFailed) and "out of memory" in str(failed.error)
    loop.submit(request(1), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None
    assert loop.alive


def test_an_engine_that_keeps_failing_is_given_up_and_nobody_waits_for_ever(start):
    def always_fail(what: str) -> None:
        raise RuntimeError("device lost")

    engine = FakeEngine(always_fail)
    loop, answers = start(engine)
    for number in range(FAILURES_TO_GIVE_UP + 5):
        try:
            loop.submit(request(number), answers.put)
        except EngineStopped:
            break
        assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is not None
    loop.stop()
    assert not loop.alive and engine.closed
    with pytest.raises(EngineStopped):
        loop.submit(request(99), answers.put)


def test_stopping_answers_what_is_waiting(start):
    entered, may_go_on = threading.Event(), threading.Event()

    def block(what: str) -> None:
        entered.set()
        may_go_on.wait(LONGEST_WAIT_SECONDS)

    loop, answers = start(FakeEngine(block))
    for number in range(3):
        loop.submit(request(number), answers.put)
    assert entered.wait(LONGEST_WAIT_SECONDS)
    assert loop.seconds_in_step() > 0, "a step that hangs can be seen from outside"
    stopper = threading.Thread(target=loop.stop)
    stopper.start()
    may_go_on.set()
    stopper.join(LONGEST_WAIT_SECONDS)
    errors = [answers.get(timeout=LONGEST_WAIT_SECONDS).error for _ in range(3)]
    assert any(isinstance(error, EngineStopped) for error in errors)


def test_a_stream_that_leaves_is_answered_with_a_cancellation(start):
    may_go_on = threading.Event()
    loop, answers = start(FakeEngine(lambda what: may_go_on.wait(LONGEST_WAIT_SECONDS)))
    loop.open_stream("s0")
    loop.submit(request(0), answers.put)
    loop.submit(request(1), answers.put)
    loop.close_stream("s1")
    may_go_on.set()
    outcomes = {}
    for _ in range(2):
        result = answers.get(timeout=LONGEST_WAIT_SECONDS)
        outcomes[result.request.request_id] = result.error
    assert outcomes[0] is None and isinstance(outcomes[1], RequestCancelled)


def test_a_clip_too_long_for_a_slot_is_refused_at_the_door(start):
    loop, answers = start(FakeEngine())
    with pytest.raises(ValueError, match="a slot holds 32000 samples"):
        loop.submit(Request(0, "s0", Clip(np.zeros(32_001, np.int16))), answers.put)
