"""The engine loop: one thread that owns the engine and the batcher. All other code uses them through submit()."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime.engine.protocol import Cores, Encoding, Engine, Pending
from runtime.exceptions import EngineError, EngineFailed, EngineStopped
from runtime.scheduler import alignment
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.inbox import Inbox, QueueInbox
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.steps import Align, Decode, Encode, Step
from runtime.scheduler.transcriber import OnLost, OnResult, Status
from runtime.scheduler.warm_up import warm_up_request
from runtime.scheduler.watch import Watch

logger = logging.getLogger(__name__)

FAILURES_TO_GIVE_UP = 3  # failed steps in a row, after which the engine counts as lost
STUCK_SECONDS = 30.0  # a step that takes longer has hung, even one of the first steps, which capture graphs
THIS_STEP = "step"  # the step on the loop's own thread


@dataclass(frozen=True)
class Submit:
    request: Request
    on_result: OnResult


@dataclass(frozen=True)
class OpenStream:
    stream_id: str
    on_lost: OnLost


@dataclass(frozen=True)
class CloseStream:
    stream_id: str


@dataclass(frozen=True)
class LaneResult:
    """A clip has been encoded on its own lane."""

    step: Encode
    encoding: Encoding
    began: float


@dataclass(frozen=True)
class Stop:
    pass


@dataclass(frozen=True)
class LaunchedStep:
    """A step that the engine has not answered yet."""

    step: Decode | Align
    pending: Pending
    began: float


class EngineLoop:
    """Runs the batcher's steps on the engine until stopped. Every request is answered once, even if the engine fails.

    While a device works on one step, the next one is planned and launched if it does not need the answer.

    `on_result` callbacks run on this loop's thread and must only pass the result on.
    """

    sessions_elsewhere = 0  # no other process uses this engine

    @property
    def encodes_streams(self) -> bool:
        return self._engine.limits.continues_clips

    def __init__(
        self,
        engine: Engine,
        max_wait_seconds: float,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        warm_up_seconds: float = 0.0,
        inbox: Inbox | None = None,
    ):
        """warm_up_seconds: length of the noise that is transcribed before the status is READY; 0 means none. inbox: the source of
        messages, by default a queue in this process."""
        self._engine = engine
        self._batcher = Batcher(engine.limits, max_wait_seconds)
        self._observer = observer
        self._clock = clock
        self._warm_up_seconds = warm_up_seconds
        self._warm_up_status = Status.STARTING if warm_up_seconds else Status.READY
        self._inbox = inbox or QueueInbox()
        self._callbacks: dict[int, tuple[Request, OnResult]] = {}  # by request id
        self._streams: dict[str, OnLost] = {}
        self._unanswered: list[LaunchedStep] = []  # in order of launch; one decode of a group at most
        self._failures = 0
        self._stopping = False
        self._lock = threading.Lock()  # orders submissions and the end of the loop: none may come after it
        self._ended = False
        self._watch = Watch(clock)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    async def run(self) -> None:
        """See Transcriber.run; the loop itself runs on its own thread."""
        self.start()
        await asyncio.get_running_loop().create_future()

    def start(self) -> None:
        self._thread.start()
        if self._warm_up_seconds:
            self.submit(warm_up_request(self._warm_up_seconds), self._take_warm_up)

    def _take_warm_up(self, result: Result) -> None:
        self._warm_up_status = Status.FAILED if result.error else Status.READY
        if result.error:
            logger.error("the warm-up failed: %s", result.error)

    def status(self) -> Status:
        if self._thread.ident is None:
            return Status.STARTING
        if self._ended or not self._thread.is_alive() or self._watch.seconds >= STUCK_SECONDS:
            return Status.FAILED
        if self._warm_up_status is not Status.READY:
            return self._warm_up_status  # the first steps of an engine may be slow
        if self._watch.is_hopeless:
            return Status.FAILED
        return Status.HUNG if self._watch.is_late else Status.READY

    def submit(self, request: Request, on_result: OnResult) -> None:
        """See Transcriber.submit; on_result is called on this loop's thread."""
        if request.clip.sample_count > self._engine.limits.max_samples:
            raise ValueError(f"{request.clip.seconds:.1f} s of audio; a slot holds {self._engine.limits.max_samples} samples")
        self._post(Submit(request, on_result))

    def count_sessions(self, sessions: int) -> None:
        """Ignore the number: no other process asks for it."""

    def open_stream(self, stream_id: str, on_lost: OnLost = lambda message: None) -> None:
        self._post(OpenStream(stream_id, on_lost))

    def close_stream(self, stream_id: str) -> None:
        with contextlib.suppress(EngineStopped):  # the loop has ended and answered everything
            self._post(CloseStream(stream_id))

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End the loop: requests that wait or are in flight are answered with EngineStopped."""
        with contextlib.suppress(EngineStopped):
            self._post(Stop())
        self._thread.join(timeout_seconds)

    @property
    def has_ended(self) -> bool:
        """True if stop() ended the loop; a step that hangs keeps it running."""
        return not self._thread.is_alive()

    def _post(self, message: object) -> None:
        with self._lock:
            if self._ended:
                raise EngineStopped("the engine has stopped")
            self._inbox.put(message)

    def _run(self) -> None:
        error: EngineError = EngineStopped("the engine was stopped")
        try:
            while not self._stopping:
                self._take_messages()
                step = self._batcher.plan(self._clock())
                if step is not None:
                    self._do(step)
                self._take_answers(waits=step is None)
                if self._failures >= FAILURES_TO_GIVE_UP:
                    error = EngineStopped(f"the engine failed {self._failures} times in a row and was given up")
                    logger.error("%s", error)
                    break
        except Exception as exc:  # a defect of our own: the callers must be informed all the same
            logger.exception("the engine loop ended on an error of its own")
            error = EngineStopped(f"the engine loop ended: {exc!r}")
        self._end(error)

    def _end(self, error: EngineError) -> None:
        """Answer every request and inform every stream. A failure in one call must not prevent the next."""
        with self._lock:
            self._ended = True
        with logged("messages could not be taken while the engine loop ended"):
            for message in self._inbox.take(timeout_seconds=0.0):
                self._apply_at_end(message)
        with logged("requests could not be withdrawn while the engine loop ended"):
            self._publish(self._batcher.fail_all(error, self._clock()))
        for request, _ in list(self._callbacks.values()):  # not known to the batcher, because it failed on them
            self._answer(Result(request, error=error))
        self._flush()
        for on_lost in self._streams.values():
            with logged("a stream could not be told that the engine loop has ended"):
                on_lost(str(error))
        with logged("the engine could not be closed"):
            self._engine.close()

    def _take_messages(self) -> None:
        """Sleep until there is something to do, then take all new messages."""
        timeout = 0.0 if self._unanswered else self._batcher.seconds_to_deadline(self._clock())
        for message in self._inbox.take(timeout):
            self._apply(message)

    def _apply_at_end(self, message: object) -> None:
        with logged("a message could not be taken while the engine loop ended"):
            self._apply(message)

    def _apply(self, message: object) -> None:
        match message:
            case Submit(request, on_result):
                self._callbacks[request.request_id] = (request, on_result)
                self._publish(self._batcher.submit(request, self._clock()))
            case OpenStream(stream_id, on_lost):
                self._streams[stream_id] = on_lost
                self._batcher.open_stream(stream_id)
            case CloseStream(stream_id):
                self._streams.pop(stream_id, None)
                self._publish(self._batcher.close_stream(stream_id))
            case LaneResult() as encoded:
                self._finish_encode(encoded)
            case Stop():
                self._stopping = True

    def _do(self, step: Step) -> None:
        """Give the engine one more step; the answer of a decode is read while the next decode runs."""
        began = self._clock()
        self._free_slots()
        match step:
            case Encode(jobs, cores=cores) if self._engine.limits.encode_lanes:
                (job,), encoding = jobs, None
                if cores is not Cores.SPARE:  # a clip on a spare core may wait as long as others want the core
                    self._watch.begin(job.request.request_id)
                with self._fails(step, began):
                    encoding = self._engine.begin_encode(job.slot, job.request.clip, cores)
                if encoding is None:
                    self._watch.end(job.request.request_id)
                    self._batcher.encoded(step)
                else:
                    encoding.when_done(lambda: self._inbox.put(LaneResult(step, encoding, began)))
            case Encode(jobs, clips):
                with self._fails(step, began):
                    self._engine.encode([job.slot for job in jobs], clips)
                self._observe_step(step, began)
            case Align(jobs):
                with self._fails(step, began):
                    pending = self._engine.align([job.slot for job in jobs], [job.decoding.tokens for job in jobs])
                    self._unanswered.append(LaunchedStep(step, pending, began))
            case Decode(rows=rows):
                previous = [each for each in self._unanswered if isinstance(each.step, Decode) and same_group(each.step, step)]
                with self._fails(step, began):
                    self._unanswered.append(LaunchedStep(step, self._engine.launch(rows), began))
                for each in previous:
                    self._finish(each)

    def _finish_encode(self, encoded: LaneResult) -> None:
        """Put the output of a lane into its slot; from now on the row can be decoded."""
        (job,) = encoded.step.jobs
        self._watch.end(job.request.request_id)
        with self._fails(encoded.step, encoded.began):
            encoded.encoding.finish()
        self._batcher.encoded(encoded.step)
        self._observe_step(encoded.step, encoded.began)

    def _take_answers(self, waits: bool) -> None:
        """Take the answers that are ready; if there are none and nothing else is to be done, wait for the oldest."""
        ready = [each for each in self._unanswered if is_ready(each.pending)]
        for unanswered in ready or (self._unanswered[:1] if waits else ()):
            self._finish(unanswered)

    def _finish(self, unanswered: LaunchedStep) -> None:
        """Wait for an answer and publish the results that it completes."""
        self._unanswered.remove(unanswered)
        step, results = unanswered.step, []
        with self._fails(step, unanswered.began):
            answers = unanswered.pending.result()
            if isinstance(step, Decode):
                results = self._batcher.decoded(step, answers, self._clock())
            else:
                results = self._batcher.aligned(step, list(map(alignment.first_frames, answers)), self._clock())
            self._failures = 0
        self._observe_step(step, unanswered.began)
        self._publish(results)

    @contextlib.contextmanager
    def _fails(self, step: Step, began: float) -> Iterator[None]:
        """Fail the requests of this step if the engine raises an error; other requests continue."""
        self._watch.begin(THIS_STEP)
        try:
            yield
        except Exception as exc:
            self._failures += 1
            logger.exception("a step of the engine failed, with %d requests in it", len(step.jobs))
            error = exc if isinstance(exc, EngineError) else EngineFailed(f"the engine failed: {exc!r}")
            self._publish(self._batcher.fail(step.jobs, error, self._clock()))
        finally:
            self._watch.end(THIS_STEP)

    def _publish(self, results: list[Result]) -> None:
        for slot in self._batcher.take_poisoned():
            logger.error("what the model predicts in slot %d is no number; it is cleared", slot)
            self._engine.clear(slot)
        self._free_slots()
        if results:
            with logged("an observer failed on results"):
                self._observer.results(results)
        for result in results:
            self._answer(result)
        if results:
            self._flush()

    def _flush(self) -> None:
        with logged("results could not be sent"):
            self._inbox.flush()

    def _free_slots(self) -> None:
        for slot in self._batcher.take_resting():
            self._engine.rest(slot)
        for slot in self._batcher.take_freed():
            self._engine.free(slot)

    def _answer(self, result: Result) -> None:
        _, on_result = self._callbacks.pop(result.request.request_id)
        with logged("the receiver of a result failed"):
            on_result(result)

    def _observe_step(self, step: Step, began: float) -> None:
        with logged("an observer failed on a step"):
            self._observer.step(step, self._clock() - began, self._batcher)


def is_ready(pending: Pending) -> bool:
    """True if the work is done or has failed; result() raises the error of failed work."""
    try:
        return pending.ready
    except EngineError:
        return True


def same_group(one: Decode, other: Decode) -> bool:
    return one.jobs[0].group is other.jobs[0].group


@contextlib.contextmanager
def logged(what: str) -> Iterator[None]:
    """Log the error of one listener, so that the others continue."""
    try:
        yield
    except Exception:
        logger.exception("%s", what)
