"""The heartbeat of the event loop. A thread of its own process checks it, and also the supervisor if there is one.

Both are needed: a thread stops with a process that is stopped, and the supervisor cannot see where the loop hangs.
"""

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

logger = logging.getLogger(__name__)

PATH_VARIABLE = "ASR_HEARTBEAT_FILE"  # set by the supervisor
BEAT_SECONDS = 0.5
STALLED_SECONDS = 3.0  # without a beat: then it is logged
LOST_SECONDS = 8.0  # without a beat: then the process is ended, to be started again
STALLED_STATUS = 6  # exit status of a process whose event loop has stalled
STACK_DEPTH = 8


class Heartbeat:
    """The heartbeat of one event loop."""

    def __init__(self, observe_lag: Callable[[float], None], path: Path | None = None):
        """observe_lag: takes the seconds by which a beat was late. path: touched with each beat."""
        self.beats = 0
        self._observe_lag = observe_lag
        self._path = path

    async def run(self) -> None:
        while True:
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._observe_lag(time.monotonic() - due)
            self.beats += 1
            if self._path is not None:
                with contextlib.suppress(OSError):  # for example, no descriptor is free: the supervisor waits for a while
                    self._path.touch()


class Listener:
    """Checks one heartbeat.

    It adds up the time between its own checks: a process that was stopped and goes on, with its listener, has missed no beat.
    """

    def __init__(
        self,
        beats: Callable[[], int],
        on_stalled: Callable[[], None],
        on_lost: Callable[[], None],
        stalled_seconds: float = STALLED_SECONDS,
        lost_seconds: float = LOST_SECONDS,
    ):
        """beats: changes with every beat; 0 before the first one, for which there is no time limit."""
        self._beats, self._on_stalled, self._on_lost = beats, on_stalled, on_lost
        self._stalled_seconds, self._lost_seconds = stalled_seconds, lost_seconds
        self._last_beats = 0
        self._silent_seconds = 0.0

    def look(self, seconds: float) -> None:
        """Check the heartbeat. seconds: time since the last check."""
        beats, before = self._beats(), self._silent_seconds
        if beats != self._last_beats or not beats:
            self._last_beats, self._silent_seconds = beats, 0.0
            return
        self._silent_seconds += seconds
        if before < self._stalled_seconds <= self._silent_seconds:
            self._on_stalled()
        if before < self._lost_seconds <= self._silent_seconds:
            self._on_lost()


@contextlib.asynccontextmanager
async def beating(
    observe_lag: Callable[[float], None], stalled_seconds: float = STALLED_SECONDS, lost_seconds: float = LOST_SECONDS
) -> AsyncIterator[None]:
    """Run the heartbeat of the event loop. If it stops, the process ends with STALLED_STATUS."""
    path = os.environ.get(PATH_VARIABLE)
    heartbeat = Heartbeat(observe_lag, Path(path) if path else None)
    loop_thread, stopping = threading.get_ident(), threading.Event()
    listener = Listener(lambda: heartbeat.beats, lambda: say_stalled(loop_thread), end_process, stalled_seconds, lost_seconds)

    def listen() -> None:
        while not stopping.wait(BEAT_SECONDS):
            listener.look(BEAT_SECONDS)

    threading.Thread(target=listen, name="heartbeat", daemon=True).start()
    task = asyncio.create_task(heartbeat.run())
    try:
        yield
    finally:
        stopping.set()
        task.cancel()


def say_stalled(thread: int) -> None:
    stack = traceback.format_stack(sys._current_frames()[thread])[-STACK_DEPTH:]
    aside(lambda: logger.error("the event loop has stalled; it is at\n%s", "".join(stack).rstrip()))


def end_process() -> None:
    """End at once: an orderly end needs the event loop."""
    aside(lambda: logger.error("the event loop does not go on; the process ends"))
    exit_at_once(STALLED_STATUS)


def exit_at_once(status: int) -> NoReturn:
    """End the process after the log is written. The interpreter's own end would wait for threads that hang."""
    aside(logging.shutdown)
    os._exit(status)


def aside(work: Callable[[], None]) -> None:
    """Run the work in a thread and wait for a second at most: the event loop may hang in the log, and hold its lock."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(1.0)
