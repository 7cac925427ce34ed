"""The engine loop's thread: every request is answered once, also when the engine fails, hangs or stops."""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.audio import Clip
from runtime.engine.protocol import CONTINUED, Answered, Limits, Prediction, Row
from runtime.exceptions import EngineFailed, EngineStopped, RequestCancelled
from runtime.scheduler.inbox import QueueInbox
from runtime.scheduler.loop import FAILURES_TO_GIVE_UP, EngineLoop
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Request
from runtime.scheduler.transcriber import Status
from runtime.scheduler.watch import GIVE_UP_SECONDS, HUNG_SECONDS, Watch

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

    def launch(self, rows):
        self._before_step("decode")
        assert {row.slot for row in rows} <= self.busy
        return Answered(
            [Prediction(np.array([2 if row.past_length else 9] * len(row.tokens)), np.zeros(len(row.tokens))) for row in rows]
        )

    def align(self, slots, tokens):
        self._before_step("align")
        assert self.busy.issuperset(slots)
        return Answered([np.ones((len(said), 5), np.float32) for said in tokens])

    def free(self, slot):
        self.busy.discard(slot)

    def close(self):
        self.closed = True


class LaneEngine(FakeEngine):
    """Encodes on threads of its own, when it is let."""

    def __init__(self, before_step=lambda what: None):
        super().__init__(before_step)
        self.limits = dataclasses.replace(self.limits, encode_lanes=2)
        self.finished: list[int] = []
        self.cores = ThreadPoolExecutor(2)

    def begin_encode(self, slot, clip, cores):
        return LaneEncoding(self, slot, self.cores.submit(self._before_step, "encode"))

    def close(self):
        self.cores.shutdown()
        super().close()


@dataclasses.dataclass
class LaneEncoding:
    engine: LaneEngine
    slot: int
    future: Future

    def when_done(self, callback):
        self.future.add_done_callback(lambda _: callback())

    def finish(self):
        self.future.result()
        self.engine.busy.add(self.slot)
        self.engine.finished.append(self.slot)


@pytest.fixture
def start():
    """Starts a loop on an engine; ends it after the test."""
    loops = []

    def start_loop(engine, observer=None, **options) -> tuple[EngineLoop, queue.SimpleQueue]:
        loop = EngineLoop(engine, max_wait_seconds=0.0, observer=observer or Observer(), **options)
        loops.append(loop)
        loop.start()
        return loop, queue.SimpleQueue()

    yield start_loop
    for loop in loops:
        loop.stop()


def failing_once(step: str, message: str) -> Callable[[str], None]:
    """A before_step that raises at the first step of this kind."""
    failures = iter([RuntimeError(message)])

    def before_step(what: str) -> None:
        if what == step and (error := next(failures, None)):
            raise error

    return before_step


def request(number: int) -> Request:
    return Request(number, f"s{number}", CLIP)


def answer_twenty(loop: EngineLoop, answers: queue.SimpleQueue) -> None:
    for number in range(20):
        loop.submit(request(number), answers.put)
    results = [answers.get(timeout=LONGEST_WAIT_SECONDS) for _ in range(20)]
    assert sorted(result.request.request_id for result in results) == list(range(20))
    assert all(result.tokens == (9,) and result.error is None for result in results)


def test_requests_are_answered_and_slots_given_back(start):
    engine = FakeEngine()
    loop, answers = start(engine)
    answer_twenty(loop, answers)
    loop.stop()
    assert not engine.busy and engine.closed


def test_requests_are_answered_where_clips_are_encoded_on_lanes(start):
    engine = LaneEngine()
    loop, answers = start(engine)
    answer_twenty(loop, answers)
    loop.stop()
    assert engine.closed and len(engine.finished) == 20


def test_a_lane_that_fails_fails_its_request_alone(start):
    loop, answers = start(LaneEngine(failing_once("encode", "no memory for this clip")))
    loop.submit(request(0), answers.put)
    failed = answers.get(timeout=LONGEST_WAIT_SECONDS)
    assert isinstance(failed.error, EngineFailed) and "no memory for this clip" in str(failed.error)
    loop.submit(request(1), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None


def test_a_loop_that_is_stopped_answers_what_is_on_a_lane(start):
    let_go = threading.Event()
    loop, answers = start(LaneEngine(lambda what: let_go.wait(LONGEST_WAIT_SECONDS)))
    loop.submit(request(0), answers.put)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    assert isinstance(answers.get(timeout=LONGEST_WAIT_SECONDS).error, EngineStopped)
    let_go.set()
    stopping.join(LONGEST_WAIT_SECONDS)
    assert not stopping.is_alive()


def test_a_failing_step_fails_its_requests_by_name_and_the_loop_goes_on(start):
    loop, answers = start(FakeEngine(failing_once("decode", "out of memory")))
    loop.submit(request(0), answers.put)
    failed = answers.get(timeout=LONGEST_WAIT_SECONDS)
    assert isinstance(failed.error, EngineFailed) and "out of memory" in str(failed.error)
    loop.submit(request(1), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None
    assert loop.status() is Status.READY


def test_a_failing_alignment_fails_its_request_alone(start):
    def fail_to_align(what: str) -> None:
        if what == "align":
            raise RuntimeError("no such kernel")

    engine = FakeEngine(fail_to_align)
    loop, answers = start(engine)
    loop.submit(dataclasses.replace(request(0), align=True), answers.put)
    failed = answers.get(timeout=LONGEST_WAIT_SECONDS)
    assert isinstance(failed.error, EngineFailed) and "no such kernel" in str(failed.error)
    loop.submit(request(1), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None and not engine.busy


def test_tokens_are_aligned_where_it_is_asked_for(start):
    loop, answers = start(FakeEngine())
    loop.submit(dataclasses.replace(request(0), align=True), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).first_frames == (0, 5)


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
    assert loop.status() is Status.FAILED and engine.closed
    with pytest.raises(EngineStopped):
        loop.submit(request(99), answers.put)


def test_stopping_answers_what_is_waiting(start):
    entered, may_go_on = threading.Event(), threading.Event()

    def block(what: str) -> None:
        entered.set()
        may_go_on.wait(LONGEST_WAIT_SECONDS)

    now = [0.0]
    loop, answers = start(FakeEngine(block), clock=lambda: now[0])
    for number in range(3):
        loop.submit(request(number), answers.put)
    assert entered.wait(LONGEST_WAIT_SECONDS)
    assert loop.status() is Status.READY
    now[0] += HUNG_SECONDS
    assert loop.status() is Status.HUNG, "a step that hangs can be seen from outside"
    now[0] += GIVE_UP_SECONDS
    assert loop.status() is Status.FAILED
    stopper = threading.Thread(target=loop.stop)
    stopper.start()
    may_go_on.set()
    stopper.join(LONGEST_WAIT_SECONDS)
    errors = [answers.get(timeout=LONGEST_WAIT_SECONDS).error for _ in range(3)]
    assert any(isinstance(error, EngineStopped) for error in errors)


class BrokenInbox(QueueInbox):
    """Gives what there is, and then no more."""

    def take(self, timeout_seconds):
        yield from super().take(0.0)
        raise OSError("a defect of the inbox")


def test_an_inbox_that_breaks_ends_the_loop_and_everybody_hears_of_it():
    engine, answers, lost = FakeEngine(), queue.SimpleQueue(), queue.SimpleQueue()
    loop = EngineLoop(engine, 0.0, Observer(), inbox=BrokenInbox())
    loop.open_stream("s0", lost.put)
    for number in range(3):
        loop.submit(request(number), answers.put)
    loop.start()
    results = [answers.get(timeout=LONGEST_WAIT_SECONDS) for _ in range(3)]
    assert all(isinstance(result.error, EngineStopped) for result in results)
    assert "defect of the inbox" in lost.get(timeout=LONGEST_WAIT_SECONDS)
    loop.stop()
    assert loop.has_ended and engine.closed and loop.status() is Status.FAILED


class FailedPending:
    """A decode whose failure shows when it is looked at."""

    @property
    def ready(self):
        raise EngineFailed("CUDA failed: an illegal address")

    result = ready.fget


def test_a_device_that_fails_behind_a_launch_fails_the_step_and_not_the_loop(start):
    engine = FakeEngine()
    right, failures = engine.launch, iter([FailedPending()])
    engine.launch = lambda rows: next(failures, None) or right(rows)
    loop, answers = start(engine)
    loop.submit(request(0), answers.put)
    assert "illegal address" in str(answers.get(timeout=LONGEST_WAIT_SECONDS).error)
    answer_twenty(loop, answers)


class FailingObserver(Observer):
    """Raises whatever it is told."""

    def step(self, step, seconds, batcher) -> None:
        raise RuntimeError("a defect of the observer")

    def results(self, results) -> None:
        raise RuntimeError("a defect of the observer")


def test_an_observer_that_raises_ends_nothing(start):
    loop, answers = start(FakeEngine(), FailingObserver())
    for number in range(3):
        loop.submit(request(number), answers.put)
        assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None
    assert loop.status() is Status.READY


def test_a_receiver_that_raises_ends_nothing_for_the_others(start):
    def fail(result) -> None:
        raise RuntimeError("the event loop is closed")

    loop, answers = start(FakeEngine())
    loop.submit(request(0), fail)
    loop.submit(request(1), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None
    assert loop.status() is Status.READY


class PoisonedEngine(FakeEngine):
    """What a slot holds is no number, until it is cleared."""

    def __init__(self, poisoned: Sequence[int]):
        super().__init__()
        self.poisoned = set(poisoned)

    def launch(self, rows):
        sound = super().launch(rows).result()
        return Answered(
            [
                each._replace(log_probs=np.full(len(each.tokens), np.nan)) if row.slot in self.poisoned else each
                for row, each in zip(rows, sound, strict=True)
            ]
        )

    def clear(self, slot: int) -> None:
        assert slot in self.busy, "before anybody else has it"
        self.poisoned.discard(slot)


def test_a_poisoned_slot_fails_its_request_by_name_and_is_cleared_for_the_next(start):
    engine = PoisonedEngine(poisoned=[0, 2])
    loop, answers = start(engine)
    for number in range(20):
        loop.submit(request(number), answers.put)
    results = [answers.get(timeout=LONGEST_WAIT_SECONDS) for _ in range(20)]
    failed = [result.error for result in results if result.error]
    assert [type(error) for error in failed] == [EngineFailed] * 2 and "is no number" in str(failed[0])
    assert all(result.tokens == (9,) for result in results if not result.error)
    assert not engine.poisoned and loop.status() is Status.READY


def test_the_end_answers_everybody_whatever_fails_in_it(start):
    """Here the engine cannot even give its slots back."""

    class Broken(FakeEngine):
        def free(self, slot: int) -> None:
            raise RuntimeError("device lost")

    loop, answers = start(Broken())
    told: queue.SimpleQueue = queue.SimpleQueue()
    loop.open_stream("s7", told.put)
    for number in range(4):
        with contextlib.suppress(EngineStopped):
            loop.submit(request(number), answers.put)
    assert isinstance(answers.get(timeout=LONGEST_WAIT_SECONDS).error, EngineStopped)
    assert "device lost" in told.get(timeout=LONGEST_WAIT_SECONDS), "a stream without a request hears of it, too"
    loop.stop()
    assert loop.status() is Status.FAILED


def test_a_loop_is_ready_when_it_is_warm_and_failed_when_it_cannot_be(start):
    may_go_on = threading.Event()
    loop, _ = start(FakeEngine(lambda what: may_go_on.wait(LONGEST_WAIT_SECONDS)), warm_up_seconds=0.5)
    assert loop.status() is Status.STARTING
    may_go_on.set()
    assert until_not_starting(loop) is Status.READY

    def fail(what: str) -> None:
        raise RuntimeError("no such kernel")

    broken, _ = start(FakeEngine(fail), warm_up_seconds=0.5)
    assert until_not_starting(broken) is Status.FAILED


def until_not_starting(loop: EngineLoop) -> Status:
    """A request behind the warm-up is answered behind it."""
    answers: queue.SimpleQueue = queue.SimpleQueue()
    while loop.status() is Status.STARTING:
        with contextlib.suppress(EngineStopped):
            loop.submit(request(1000), answers.put)
            answers.get(timeout=LONGEST_WAIT_SECONDS)
    return loop.status()


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


class OverlappingEngine(FakeEngine):
    """A device that has not done a step when it is given the next. Counts up from each slot's request to its end."""

    def __init__(self, length: int, fails_at: int | None = None):
        super().__init__()
        self.limits = dataclasses.replace(self.limits, encode_rows=4)
        self.launched: list[tuple[tuple[int, ...], ...]] = []
        self._length, self._fails_at = length, fails_at

    def launch(self, rows):
        self.launched.append(tuple(row.tokens for row in rows))
        return Late(rows, self._length, failing=len(self.launched) == self._fails_at)


@dataclasses.dataclass
class Late:
    rows: Sequence[Row]
    length: int
    failing: bool
    ready = False

    def result(self):
        if self.failing:
            raise EngineFailed("the device is gone")
        return [
            Prediction(
                np.array([self._after(row.past_length + index) for index in range(len(row.tokens))]), np.zeros(len(row.tokens))
            )
            for row in self.rows
        ]

    def _after(self, position: int) -> int:
        return 100 + position if position < self.length else 2


def test_steps_follow_each_other_without_waiting_for_the_answer(start):
    engine = OverlappingEngine(length=5)
    loop, answers = start(engine)
    loop.submit(request(0), answers.put)
    result = answers.get(timeout=LONGEST_WAIT_SECONDS)
    assert result.tokens == (100, 101, 102, 103, 104), "as if each had waited for the one before"
    loop.stop()
    assert engine.launched[:6] == [((1,),), *[((CONTINUED,),)] * 5], "tokens never come to the host and back"
    assert len(engine.launched) <= 7 and not engine.busy


def test_a_row_with_a_draft_waits_for_its_answer(start):
    engine = OverlappingEngine(length=4)
    loop, answers = start(engine)
    loop.submit(dataclasses.replace(request(0), draft=(100, 101, 7)), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).tokens == (100, 101, 102, 103)
    assert engine.launched[:3] == [((1, 100, 101, 7),), ((102,),), ((CONTINUED,),)]


def test_a_device_that_fails_behind_the_loops_back_fails_the_requests_in_both_steps(start):
    loop, answers = start(OverlappingEngine(length=50, fails_at=3))
    loop.submit(request(0), answers.put)
    error = answers.get(timeout=LONGEST_WAIT_SECONDS).error
    assert isinstance(error, EngineFailed) and "the device is gone" in str(error)
    loop.submit(request(1), answers.put)
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None, "and the next one is served"
    assert answers.empty(), "each is answered once"


def test_a_lane_that_hangs_is_seen(start):
    entered, may_go_on, now = threading.Event(), threading.Event(), [0.0]

    def block(what: str) -> None:
        entered.set()
        may_go_on.wait(LONGEST_WAIT_SECONDS)

    loop, answers = start(LaneEngine(block), clock=lambda: now[0])
    loop.submit(request(3), answers.put)
    assert entered.wait(LONGEST_WAIT_SECONDS) and loop.status() is Status.READY
    now[0] += HUNG_SECONDS
    assert loop.status() is Status.HUNG
    may_go_on.set()
    assert answers.get(timeout=LONGEST_WAIT_SECONDS).error is None
    assert loop.status() is Status.READY


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 20.0)), max_size=30))
def test_the_longest_under_way_is_what_counts(events):
    now, begun = [0.0], {}
    watch = Watch(lambda: now[0])
    for what, seconds in events:
        if what in begun:
            watch.end(what)
            del begun[what]
        else:
            watch.begin(what)
            begun[what] = now[0]
        now[0] += seconds
        assert watch.seconds == (now[0] - min(begun.values()) if begun else 0.0)
        assert HUNG_SECONDS <= watch.limit_seconds <= 15.0 and (watch.is_late or not watch.is_hopeless)
