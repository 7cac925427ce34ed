"""More streams than the engine carries: updates grow rarer, for all alike, and finals do not wait for them."""

import dataclasses

import numpy as np
import pytest

from benchmarks.harness.simulation import SimulatedSeat, native_session
from runtime.audio import SAMPLE_RATE
from runtime.engine.protocol import Limits, Prediction
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.requests import Request, Result, Timings
from runtime.scheduler.steps import Align, Decode, Encode
from runtime.tokenizer import Tokenizer
from server.sessions.session import Session
from server.settings import SessionLimits
from server.stream.update_clock import LONG_INTERVALS, LONG_SECONDS

LIMITS = SessionLimits(
    max_buffer_seconds=60,
    init_timeout_seconds=5,
    idle_timeout_seconds=30,
    close_timeout_seconds=20,
)
TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two"])
FRAME_SECONDS, ENCODE_SECONDS, DECODE_SECONDS = 0.02, 0.08, 0.02
FRAME_SAMPLES = int(FRAME_SECONDS * SAMPLE_RATE)


@dataclasses.dataclass
class Member:
    """A session, and when its requests were made and answered."""

    session: Session
    asked_at: list[float] = dataclasses.field(default_factory=list)
    answered: int = 0
    latencies_ms: list[float] = dataclasses.field(default_factory=list)
    final_ms: float | None = None


class Crowd:
    """Sessions, a batcher and an engine that takes its time, on one clock."""

    def __init__(self, count: int):
        self.now = 0.0
        self._batcher = Batcher(Limits(32, 500_000, 194, 1, 1, 2), max_wait_seconds=0.01)
        self._free_at = 0.0
        self._step = None
        self.members = [self._make(number) for number in range(count)]

    def _make(self, number: int) -> Member:
        stream_id = f"s{number}"
        self._batcher.open_stream(stream_id)

        def receive(message: dict) -> bool:
            if message["op"] == "interim":
                member.latencies_ms.append(message["latency_ms"])
            elif message["op"] == "final":
                member.final_ms = message["latency_ms"]
            return True

        def submit(request: Request) -> None:
            member.asked_at.append(self.now)
            self._answer(self._batcher.submit(request, self.now))

        member = Member(native_session(SimulatedSeat(LIMITS, TOKENIZER, submit, stream_id), LIMITS, receive))
        member.session.on_text('{"op":"init"}', 0.0)
        return member

    def _answer(self, results) -> None:
        for result in results:
            member = self.members[int(result.request.stream_id[1:])]
            member.answered += result.error is None
            member.session.seat.deliver(result, self.now)

    def run(self, seconds: float, speech: np.ndarray) -> None:
        """Everybody speaks in real time; the engine takes one step after the other."""
        frames_due = [self.now + FRAME_SECONDS * number / len(self.members) for number in range(len(self.members))]
        end = self.now + seconds
        while self.now < end:
            for number, member in enumerate(self.members):
                while frames_due[number] <= self.now:
                    start = round(frames_due[number] / FRAME_SECONDS) % 400 * FRAME_SAMPLES
                    member.session.on_audio(speech[start : start + FRAME_SAMPLES].tobytes(), self.now)
                    frames_due[number] += FRAME_SECONDS
            self.work()
            self.now += 0.005

    def work(self) -> None:
        if self._step is not None and self.now >= self._free_at:
            step, self._step = self._step, None
            if isinstance(step, Align):
                self._answer(self._batcher.aligned(step, [range(len(job.decoding.tokens) + 1) for job in step.jobs], self.now))
            elif isinstance(step, Decode):
                ended = [
                    Prediction(
                        np.array([3] * (len(row.tokens) - 1) + [4 if row.past_length == 0 else 2]), np.full(len(row.tokens), -0.1)
                    )
                    for row in step.rows
                ]
                self._answer(self._batcher.decoded(step, ended, self.now))
        if self._step is None and (step := self._batcher.plan(self.now)):
            self._step = step
            self._free_at = self.now + (ENCODE_SECONDS * len(step.jobs) if isinstance(step, Encode) else DECODE_SECONDS)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    samples = np.random.default_rng(0).integers(-8000, 8000, 8 * SAMPLE_RATE)
    samples[np.arange(len(samples)) // 1600 % 2 == 1] //= 8
    return samples.astype(np.int16)


def test_under_load_updates_grow_rarer_evenly_and_their_latency_says_so(speech):
    alone, crowd = Crowd(1), Crowd(12)
    alone.run(20.0, speech)
    crowd.run(60.0, speech)
    assert alone.members[0].answered == pytest.approx(40, abs=2), "an update each half second where there is room"
    counts = [member.answered for member in crowd.members]
    assert max(counts) < 60, "the engine has room for half of what is asked for"
    assert max(counts) - min(counts) <= 2, f"evenly: {counts}"
    gaps = [gap for member in crowd.members for gap in np.diff(member.asked_at)]
    assert max(gaps) <= 2 * np.median(gaps), "and steadily"
    waited = np.median([latency for member in crowd.members for latency in member.latencies_ms[-3:]])
    assert waited == pytest.approx(np.median(gaps) * 1000, rel=0.35), "latency counts from the audio, through the queue"


def gaps_between_updates(speech: np.ndarray, queue_ms: float) -> np.ndarray:
    """Of one session whose engine answers at once and says that its requests have waited so long: (when asked, gap) each."""
    asked_at, requests = [], []

    def submit(request: Request) -> None:
        asked_at.append(now)
        requests.append(request)

    now = 0.0
    seat = SimulatedSeat(LIMITS, TOKENIZER, submit)
    session = native_session(seat, LIMITS, lambda message: True)
    session.on_text('{"op":"init"}', now)
    for number in range(400):
        now = number * FRAME_SECONDS
        session.on_audio(speech[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES].tobytes(), now)
        while requests:
            seat.deliver(Result(requests.pop(), (3, 4), (-0.1, -0.1, -0.1), timings=Timings(queue_ms=queue_ms)), now)
    return np.stack([asked_at[1:], np.diff(asked_at)], axis=1)


def test_a_long_segment_is_heard_anew_less_often_only_while_the_engine_is_busy(speech):
    interval = LIMITS.interim_interval_seconds
    idle, busy = gaps_between_updates(speech, queue_ms=0.0), gaps_between_updates(speech, queue_ms=interval * 500)
    assert len(idle) > 12 and np.allclose(idle[:, 1], interval, atol=2 * FRAME_SECONDS)
    short, long = busy[busy[:, 0] < LONG_SECONDS, 1], busy[busy[:, 0] > LONG_SECONDS + 2 * interval, 1]
    assert np.allclose(short, interval, atol=2 * FRAME_SECONDS) and np.allclose(
        long, interval * LONG_INTERVALS, atol=2 * FRAME_SECONDS
    )


def test_a_final_goes_ahead_of_everybodys_updates(speech):
    crowd = Crowd(12)
    crowd.run(10.0, speech)
    leaving = crowd.members[5]
    leaving.session.on_text('{"op":"close"}', crowd.now)
    closed_at = crowd.now
    while leaving.final_ms is None and crowd.now < closed_at + 5:
        crowd.work()
        crowd.now += 0.005
    assert leaving.final_ms <= 1000 * (2 * ENCODE_SECONDS + 4 * DECODE_SECONDS) + 20, "the step under way, and its own"
