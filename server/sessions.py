"""All sessions of this process, whatever transport they came by: admission, results, time, shutdown."""

import asyncio
import contextlib
import gc
import itertools
import logging
import time
from collections.abc import Callable

from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineStopped
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.warm_up import warm_up
from runtime.tokenizer import Tokenizer
from server.dialects.native import Reason
from server.session import Session, SessionLimits, State
from server.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1  # how often sessions are told that time passes
STUCK_SECONDS = 30.0  # a single step of the engine that takes longer has hung

stream_ids = itertools.count(1)


class Refused(Exception):
    """No session can be had now."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message


class Hub:
    """Opens sessions, carries their requests to the engine loop and the results back. Lives on the event loop's thread."""

    def __init__(self, engine_loop: EngineLoop, tokenizer: Tokenizer, limits: SessionLimits, max_sessions: int, metrics: Metrics,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        self._engine_loop = engine_loop
        self._tokenizer = tokenizer
        self._limits = limits
        self._max_sessions = max_sessions
        self._metrics = metrics
        self._clock = clock
        self._members: dict[str, Session] = {}  # by stream id
        self._empty = asyncio.Event()  # while shutting down: the last session has ended
        self._warm = asyncio.Event()
        self._shutting_down = False
        self._tasks: list[asyncio.Task] = []

    async def start(self, warmup_seconds: float) -> None:
        """Start the engine loop, the ticks and the warm-up; ready when that is done."""
        self._loop = asyncio.get_running_loop()
        self._engine_loop.start()
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._warm_up(warmup_seconds))]

    async def _warm_up(self, seconds: float) -> None:
        began = self._clock()
        if self._engine_loop.recovers:
            await self._engine_loop.until_alive()  # an engine process is warm before it says that it is there
        else:
            error = await warm_up(self._engine_loop, seconds)
            if error is not None:
                logger.error("the warm-up failed: %s", error)
                return
        gc.collect()
        gc.freeze()  # what start-up made is never garbage: full collections would walk it again and again
        self._warm.set()
        logger.info("warm after %.1f s; ready", self._clock() - began)

    async def until_warm(self) -> None:
        await self._warm.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._clock()
            self._metrics.ready.set(self.refusal() is None)
            self._metrics.backlog_seconds.set(self.backlog_seconds())
            for session in list(self._members.values()):
                try:
                    session.on_time(now)
                except Exception:  # a defect met by one session must not stop the clock of all
                    logger.exception("%s failed on its time and is given up", session.stream_id)
                    self.leave(session)

    # Health

    @property
    def alive(self) -> bool:
        """Is the engine? One that is being started again counts."""
        return (self._engine_loop.alive or self._engine_loop.recovers) and self._engine_loop.seconds_in_step() < STUCK_SECONDS

    def refusal(self) -> Refused | None:
        """What keeps a new session out."""
        if not self.alive:
            return Refused(Reason.ENGINE_FAILED, "the engine has stopped")
        if self._shutting_down:
            return Refused(Reason.SHUTTING_DOWN, "the server is shutting down")
        if not self._warm.is_set() or not self._engine_loop.alive:
            return Refused(Reason.WARMING_UP, "the engine is warming up")
        if len(self._members) + self._engine_loop.sessions_elsewhere >= self._max_sessions:
            return Refused(Reason.SERVER_FULL, f"all {self._max_sessions} sessions are taken")
        return None

    @property
    def sessions(self) -> int:
        return len(self._members)

    def backlog_seconds(self) -> float:
        """Of the session that has most audio waiting to be transcribed."""
        return max((session.backlog_seconds for session in list(self._members.values())), default=0.0)

    # Sessions

    def open(self, send: Callable[[dict], bool | None], on_end: Callable[[], None]) -> Session:
        """A new session. `send` gets its messages; `on_end` is called once after the last. Raises Refused."""
        if refused := self.refusal():
            self._metrics.refused_total.labels(refused.reason.value).inc()
            raise refused
        stream_id = f"stream-{next(stream_ids)}"

        def send_counted(message: dict) -> bool | None:
            self._metrics.sent(message)
            return send(message)

        def finish() -> None:
            self._forget(stream_id)
            on_end()

        session = Session(stream_id, self._limits, self._tokenizer, send_counted,
                          lambda request: self._submit(session, request), finish, self._clock(),
                          on_update=self._observe_update)  # fmt: skip
        try:
            self._engine_loop.open_stream(stream_id)
        except EngineStopped as exc:
            raise Refused(Reason.ENGINE_FAILED, str(exc)) from exc
        self._members[stream_id] = session
        self._metrics.sessions_total.inc()
        self._metrics.sessions.set(len(self._members))
        return session

    def text(self, session: Session, text: str) -> None:
        session.on_text(text, self._clock())

    def audio(self, session: Session, pcm: bytes) -> None:
        self._metrics.audio_seconds_total.inc(len(pcm) / 2 / SAMPLE_RATE)
        session.on_audio(pcm, self._clock())

    def leave(self, session: Session) -> None:
        """The client has gone without a word. Harmless for a session that has ended."""
        if session.state is not State.CLOSED:
            logger.info("%s left without closing", session.stream_id)
            session.abandon()
        self._forget(session.stream_id)

    def _forget(self, stream_id: str) -> None:
        if self._members.pop(stream_id, None) is not None:
            self._engine_loop.close_stream(stream_id)
            self._metrics.sessions.set(len(self._members))
            self._set_empty()

    def lose(self, stream_ids: list[str], message: str) -> None:
        """The engine that these streams were on is gone."""
        for stream_id in stream_ids:
            if session := self._members.get(stream_id):
                with contextlib.suppress(Exception):  # of one client's channel: the others must hear of it
                    session.fail(Reason.ENGINE_FAILED, message)

    def _observe_update(self, late_seconds: float) -> None:
        self._metrics.update_late.observe(late_seconds / self._limits.interim_interval_seconds)

    def _set_empty(self) -> None:
        if not self._members:
            self._empty.set()

    def _submit(self, session: Session, request: Request) -> None:
        self._engine_loop.submit(
            request, lambda result: self._loop.call_soon_threadsafe(self._deliver, session, result)
        )  # fmt: skip

    def _deliver(self, session: Session, result: Result) -> None:
        session.on_result(result, self._clock())

    async def shut_down(self, timeout_seconds: float) -> None:
        """Take no new sessions, give the open ones their finals, stop the engine."""
        self._shutting_down = True
        self._empty.clear()
        self._metrics.ready.set(0)
        if self._members:
            logger.info("shutting down: %d sessions get their finals", len(self._members))
        for session in list(self._members.values()):
            session.close(self._clock())
        self._set_empty()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout_seconds)
        for session in list(self._members.values()):
            session.fail(Reason.SHUTTING_DOWN, "the server is shutting down and could not finish in time")
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self._engine_loop.stop)
