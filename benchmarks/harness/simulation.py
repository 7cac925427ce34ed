"""Simulates streams through session, batcher and engine in one process and one thread, with a simulated clock."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.audio import SAMPLE_RATE
from runtime.engine.protocol import Engine
from runtime.scheduler import alignment
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.steps import Align, Decode, Encode, Step
from runtime.tokenizer import Tokenizer
from server.apis.native.messages import Server
from server.apis.native.session import NativeSession
from server.sessions.session import Session, SessionState
from server.settings import SessionLimits
from server.stream.events import Event, Final
from server.stream.stream import Judge, Options, Stream, judge_nothing

MAX_BATCH = 32  # in the ready message


@dataclass
class Simulation:
    """Simulates one stream. The clock follows the audio: it moves with each frame, and by the engine's time if it is counted."""

    engine: Engine
    tokenizer: Tokenizer
    limits: SessionLimits = SessionLimits()
    count_compute: bool = False
    """True if results arrive after the engine's computing time, instead of at once."""
    frame_ms: float = 20
    words: bool = False
    """True if the times of words are requested."""
    init: Mapping[str, object] = field(default_factory=dict)
    """More fields of the init message."""
    flush_at: tuple[float, ...] = ()
    """Seconds of the stream at which the client flushes."""
    judge: Judge = judge_nothing
    """The turn model; its answers come at once."""
    watch: Callable[["Simulation"], None] = lambda simulation: None
    """Called after each frame."""
    messages: list[tuple[float, dict]] = field(default_factory=list)
    """Messages that the client would have received, with their times in seconds of the stream."""
    results: list[Result] = field(default_factory=list)
    compute_seconds: float = 0.0

    def run(self, audio: np.ndarray) -> str:
        """Stream int16 audio and close; returns the final text. Call it once. Raises RuntimeError if it ends with an error."""
        self._now, self._batcher = 0.0, Batcher(self.engine.limits, max_wait_seconds=0.0)
        self._batcher.open_stream("simulated")
        self._due: list[tuple[float, Result]] = []
        self._step_ends: list[float] = []  # of the last request, in seconds of the stream
        self.seat = SimulatedSeat(
            self.limits, self.tokenizer, self._serve, encodes_streams=self.engine.limits.continues_clips, judge=self.judge
        )
        self.session = native_session(self.seat, self.limits, self._receive)
        self.session.on_text(json.dumps({"op": "init", "sid": "simulated", "words": self.words, **self.init}), self._now)
        flushes = sorted(self.flush_at)
        for frame in frames_of(audio, self.frame_ms):
            if flushes and flushes[0] <= self._now:
                flushes.pop(0)
                self.session.on_text('{"op":"flush"}', self._now)
            self._now += len(frame) / SAMPLE_RATE
            self._deliver_until(self._now)
            self.session.on_audio(frame.tobytes(), self._now)
            self._deliver_until(self._now)
            self.watch(self)
        self.session.on_text('{"op":"close"}', self._now)
        while self._due and self.session.state is not SessionState.ENDED:
            self._now = max(self._now, self._due[0][0])
            self._deliver_until(self._now)
        last = self.messages[-1][1]
        if last["op"] != "final":
            raise RuntimeError(f"the stream ended in {last}")
        return last["text"]

    def _receive(self, message: dict) -> bool:
        self.messages.append((self._now, message))
        return True

    def _serve(self, request: Request) -> None:
        """Run the engine until the request is answered; the answer is delivered at its time."""
        self._batcher.submit(request, self._now)
        # A request that replaces another waits for the step in progress, as in the engine loop.
        at = next((end for end in self._step_ends if end > self._now), self._now)
        self._step_ends = []
        began = time.perf_counter()
        while (step := self._batcher.plan(self._now)) is not None:
            results = run_step(self.engine, self._batcher, step, self._now)
            seconds, began = time.perf_counter() - began, time.perf_counter()
            self.compute_seconds += seconds
            at += seconds if self.count_compute else 0.0
            self._step_ends.append(at)
            self.results += results
            self._due = sorted([*self._due, *((at, result) for result in results)], key=lambda each: each[0])

    def _deliver_until(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, result = self._due.pop(0)
            self.seat.deliver(result, now)


class SimulatedSeat:
    """A seat without a server: its streams' requests go to `submit`, and their results come from deliver()."""

    opened_at = 0.0
    evidence_of_turns = "silence, text"
    frame_ms = 20

    def __init__(
        self,
        limits: SessionLimits,
        tokenizer: Tokenizer,
        submit: Callable[[Request], None],
        session_id: str = "simulated",
        on_update: Callable[[float], None] = lambda late_seconds: None,
        encodes_streams: bool = False,
        judge: Judge = judge_nothing,
    ):
        self._encodes_streams, self._judge = encodes_streams, judge
        self.session_id = session_id
        self.streams: list[Stream] = []
        self.ended: list[str] = []
        """Reasons why the session has ended; a session that ends twice has two."""
        self.places = 0
        self.audio_seconds = 0.0
        self.changes = 0
        self.text = ""
        """The text of the last final."""
        self._limits, self._tokenizer, self._submit, self._on_update = limits, tokenizer, submit, on_update

    def attach(self, session: Session) -> None:
        self.session = session

    def take_places(self, count: int = 1) -> None:
        self.places = max(self.places, count)

    def open_stream(self, say: Callable[[Event], bool], options: Options, now: float) -> Stream:
        name = f"{self.session_id}.{len(self.streams)}" if self.streams else self.session_id

        def observe(event: Event) -> bool:
            if isinstance(event, Final):
                self.text = event.text
            return say(event)

        opened = Stream(
            name,
            self._limits,
            self._tokenizer,
            observe,
            self._submit,
            now,
            options,
            self._on_update,
            self._encodes_streams,
            self._judge,
        )
        self.streams.append(opened)
        return opened

    @property
    def backlog_seconds(self) -> float:
        return max((each.backlog_seconds for each in self.streams), default=0.0)

    def transcribe_all(self, pcm: bytes, say: Callable[[Event], bool], options: Options) -> Stream:
        opened = self.open_stream(say, options, 0.0)
        opened.receive_all(pcm, 0.0)
        return opened

    def deliver(self, result: Result, now: float) -> None:
        """Pass the result of a request to the stream that sent it."""
        next(each for each in self.streams if each.stream_id == result.request.stream_id).on_result(result, now)

    def close_stream(self, closed: Stream) -> None:
        closed.drop()

    def count_audio(self, pcm: bytes) -> None:
        self.audio_seconds += len(pcm) / 2 / SAMPLE_RATE

    def count_change(self) -> None:
        self.changes += 1

    def end(self, reason: str) -> None:
        for stream in self.streams:
            stream.drop()
        self.ended.append(reason)


def native_session(seat: SimulatedSeat, limits: SessionLimits, receive: Callable[[dict], bool]) -> NativeSession:
    """Return a session without a transport; `receive` gets its messages as a client would read them."""
    return NativeSession(seat, limits, Server(MAX_BATCH, "r"), lambda message: receive(json.loads(message.encode())))


def run_step(engine: Engine, batcher: Batcher, step: Step, now: float) -> list[Result]:
    """Run a step as the engine loop does, on this thread; returns the results it completes."""
    results = []
    match step:
        case Encode(jobs):
            free_slots(engine, batcher)
            engine.encode([job.slot for job in jobs], [job.request.clip for job in jobs])
            batcher.encoded(step)
        case Align(jobs):
            shares = engine.align([job.slot for job in jobs], [job.decoding.tokens for job in jobs]).result()
            results = batcher.aligned(step, list(map(alignment.first_frames, shares)), now)
        case Decode(rows=rows):
            results = batcher.decoded(step, engine.decode(rows), now)
    free_slots(engine, batcher)
    return results


def free_slots(engine: Engine, batcher: Batcher) -> None:
    for slot in batcher.take_resting():
        engine.rest(slot)
    for slot in batcher.take_freed():
        engine.free(slot)


def frames_of(audio: np.ndarray, frame_ms: float) -> Iterator[np.ndarray]:
    samples = round(SAMPLE_RATE * frame_ms / 1000)
    return (audio[start : start + samples] for start in range(0, len(audio), samples))
