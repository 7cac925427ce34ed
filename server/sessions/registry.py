"""All sessions of this process, of every API: their seats, the clock, the engine's health, and the shutdown."""

import asyncio
import contextlib
import gc
import itertools
import logging
import time
from collections.abc import Callable

from runtime.scheduler.transcriber import Status, Transcriber
from runtime.tokenizer import Tokenizer
from runtime.turns.worker import TurnWorker
from server.access import ANYONE, Caller
from server.errors import Code, Refused, ServerError
from server.sessions.admission import Admission, Counts
from server.sessions.seat import Seat, Shared
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics
from server.telemetry.tracing import Tracing, no_tracing

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1  # interval between two calls of each session's on_time()

session_numbers = itertools.count(1)


def do_nothing() -> None:
    """Default for a seat whose end nobody waits for."""


class Sessions:
    """Used on the event loop's thread only."""

    def __init__(
        self,
        transcriber: Transcriber,
        tokenizer: Tokenizer,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        tracing: Tracing = no_tracing,
        turn_worker: TurnWorker | None = None,
    ):
        access = settings.access
        admission = Admission(
            transcriber, access.session_limit, access.max_sessions_per_address, access.max_connecting_per_address
        )
        self._shared = Shared(transcriber, tokenizer, settings, metrics, admission, clock, turn_worker=turn_worker)
        self._tracing = tracing
        self._seats: dict[str, Seat] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_warm = asyncio.Event()
        self._engine_was = Status.STARTING
        self._background: asyncio.Task[None] | None = None
        self.on_defect: Callable[[], None] = do_nothing
        """Called when a task that all sessions need has ended, or the engine is lost: the process serves no sessions any more."""
        metrics.sessions_max.set(access.session_limit)
        metrics.draining.set(False)

    def start(self) -> None:
        """Start the transcriber and the clock; until_warm() waits until sessions are taken."""
        self._shared.loop = asyncio.get_running_loop()
        self._background = asyncio.create_task(self._run_background())

    async def _run_background(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._shared.transcriber.run())
                tasks.create_task(self._run_clock())
        except Exception:
            logger.exception("a task that all sessions need has ended; the server stops")
            self._shared.admission.shut()
            self.on_defect()

    # Seats

    def take_seat(
        self,
        api: Api,
        caller: Caller = ANYONE,
        on_end: Callable[[], None] = do_nothing,
        waits: bool = False,
        session_id: str = "",
        places: int = 1,
    ) -> Seat:
        """Return a seat for a new session.

        on_end: called once, after the session's last message. waits: it takes its place with its first stream, or by
        take_places(); until then it is one of the connections that have not begun. places: one for each channel. Raises Refused.
        """
        session_id = session_id or f"{api.value}-{next(session_numbers)}"
        metrics, admission = self._shared.metrics, self._shared.admission
        with metrics.counting_refusals():
            if waits:
                admission.begin_waiting(caller)
            else:
                admission.take_places(caller, places)
        trace = self._tracing(session_id, api.value)
        seat = Seat(
            session_id, api, caller, self._shared, trace, lambda ended: self._forget(ended, on_end), 0 if waits else places
        )
        self._seats[session_id] = seat
        self._is_empty.clear()
        metrics.session_began(api, caller.name if caller.is_identified else None)
        return seat

    def _forget(self, ended: Seat, on_end: Callable[[], None]) -> None:
        del self._seats[ended.session_id]
        if not self._seats:
            self._is_empty.set()
        on_end()

    # The clock

    async def _run_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._tick(self._shared.clock())

    def _tick(self, now: float) -> None:
        if not self._is_warm.is_set() and self._shared.transcriber.status() is Status.READY:
            self._become_warm()
        self._check_engine()
        metrics = self._shared.metrics
        metrics.publish()
        metrics.ready.set(self.refusal() is None)
        metrics.backlog_seconds.set(self.backlog_seconds())
        for seat in list(self._seats.values()):
            seat.on_time(now)
        self._end_longest(now)
        self._shared.ticked.set()  # wakes all tasks that wait now
        self._shared.ticked.clear()

    def _become_warm(self) -> None:
        gc.collect()
        gc.freeze()  # objects from start-up are never garbage: full collections would walk them again and again
        self._is_warm.set()
        logger.info("warm; ready")

    def _end_longest(self, now: float) -> None:
        limit_seconds = self._shared.settings.session.max_session_seconds
        if not limit_seconds:
            return
        for seat in self._taken():
            if seat.session.has_time_limit and now - seat.opened_at > limit_seconds:
                seat.fail(ServerError(Code.SESSION_TOO_LONG, f"a session may last {limit_seconds:g} s"))

    def _check_engine(self) -> None:
        """Fail all sessions of an engine that hangs. If the engine is lost for good, the process ends and is started again."""
        status = self._shared.transcriber.status()
        if status is self._engine_was:
            return
        self._engine_was = status
        if status in (Status.HUNG, Status.FAILED):
            logger.error("the engine %s, and %d sessions with it", status.value, len(self._seats))
            self.fail_all(ServerError(Code.ENGINE_FAILED, f"the engine has {status.value}; connect again"))
        if status is Status.FAILED:
            self.on_defect()

    def fail_all(self, error: ServerError) -> None:
        """End every session with an error that is sent to its client."""
        for seat in self._taken():
            seat.fail(error)

    def _taken(self) -> list[Seat]:
        return [seat for seat in self._seats.values() if seat.is_taken]

    async def until_warm(self) -> None:
        await self._is_warm.wait()

    async def until_tick(self) -> None:
        """Wait until the next tick has called on_time() of all sessions."""
        await self._shared.ticked.wait()

    # Health

    @property
    def alive(self) -> bool:
        """True if the engine is alive; an engine that is being started again counts."""
        has_tasks = self._background is not None and not self._background.done()
        return has_tasks and self._shared.transcriber.status() is not Status.FAILED

    def refusal(self) -> Refused | None:
        """The reason to refuse a new session, if there is one."""
        return self._shared.admission.refusal()

    @property
    def evidence_of_turns(self) -> str:
        """Evidence by which ends of turns are judged."""
        return self._shared.evidence_of_turns

    def __len__(self) -> int:
        return len(self._seats)

    def counts(self) -> Counts:
        return self._shared.admission.counts()

    def backlog_seconds(self) -> float:
        """Return the seconds of audio that wait to be transcribed, of the session with the most."""
        return max((seat.backlog_seconds for seat in self._seats.values()), default=0.0)

    # The end

    async def shut_down(self, timeout_seconds: float) -> None:
        """Take no new sessions, give the open ones their finals, stop the engine."""
        await self.finish_all(timeout_seconds)
        if self._background is not None:
            self._background.cancel()
        await asyncio.to_thread(self._shared.transcriber.stop)

    async def drain(self, seconds: float) -> None:
        """Take no new sessions, and let the open ones go on for at most `seconds`. Clients that asked for it are informed."""
        if not seconds:
            return
        self._refuse_new()
        logger.info("draining: %d sessions may go on for %g s", len(self._seats), seconds)
        for seat in self._taken():
            seat.move(seconds)
        await self._until_empty(seconds)

    async def finish_all(self, timeout_seconds: float) -> None:
        """Take no new sessions, and give the open ones their finals."""
        self._refuse_new()
        if self._seats:
            logger.info("shutting down: %d sessions get their finals", len(self._seats))
        for seat in self._taken():
            seat.move_on()
        await self._until_empty(timeout_seconds)
        self.fail_all(ServerError(Code.SHUTTING_DOWN, "the server is shutting down and could not finish in time"))
        self._shared.metrics.publish()

    def _refuse_new(self) -> None:
        self._shared.admission.shut()
        self._shared.metrics.ready.set(False)
        self._shared.metrics.draining.set(True)

    async def _until_empty(self, timeout_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), timeout_seconds)
