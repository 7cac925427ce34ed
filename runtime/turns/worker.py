"""The thread of the turn model. Its processor time is limited: when its share is spent, pauses are not judged."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.turns.turn_model import TurnModel

logger = logging.getLogger(__name__)

SHARE = 0.3  # of one core
BURST_SECONDS = 1.0  # of processor time that may be spent at once
MAX_BATCH = 4  # pauses in one run: a larger one would keep the first waiting
STALE_SECONDS = 0.4  # age at which an answer is too late to matter

Answer = Callable[[float], None]


class Budget:
    """Processor time that may be spent: a share of the elapsed time, saved up to a limit."""

    def __init__(self, share: float, most_seconds: float, now: float):
        self._share, self._most_seconds = share, most_seconds
        self._seconds, self._at = most_seconds, now

    def is_spent(self, now: float) -> bool:
        self._seconds = min(self._most_seconds, self._seconds + (now - self._at) * self._share)
        self._at = now
        return self._seconds <= 0

    def spend(self, seconds: float) -> None:
        self._seconds -= seconds


@dataclass(frozen=True)
class Pause:
    """A pause that is to be judged."""

    samples: np.ndarray
    """int16 (samples,), 16 kHz: the speech, and the beginning of the pause."""
    answer: Answer
    submitted_at: float


class TurnWorker:
    """Judges pauses on its own thread."""

    def __init__(
        self,
        model: TurnModel,
        on_judged: Callable[[int, int], None] = lambda judged, skipped: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Make a worker. on_judged: called after each run with the numbers of pauses judged and skipped."""
        self._model, self._on_judged, self._clock = model, on_judged, clock
        self._budget = Budget(SHARE, BURST_SECONDS, clock())
        self._waiting: queue.SimpleQueue[Pause | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="turn model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end."""
        self._waiting.put(None)
        self._thread.join()

    def submit(self, samples: np.ndarray, answer: Answer) -> None:
        """Judge a pause soon, or skip it. answer: called on the worker's thread with the probability that the turn is over."""
        self._waiting.put(Pause(samples, answer, self._clock()))

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            try:
                self.judge([first, *self._more()])
            except Exception:
                logger.exception("the turn model failed on a pause, and goes on with the next")

    def _more(self) -> list[Pause]:
        """Take further waiting pauses. The end marker stays in the queue."""
        found: list[Pause] = []
        while len(found) < MAX_BATCH - 1 and not self._waiting.empty():
            following = self._waiting.get()
            if following is None:
                self._waiting.put(None)
                break
            found.append(following)
        return found

    def judge(self, pauses: list[Pause]) -> None:
        """Judge the pauses that still matter, if the budget has something left."""
        now = self._clock()
        fresh = [] if self._budget.is_spent(now) else [each for each in pauses if now - each.submitted_at < STALE_SECONDS]
        if fresh:
            for each, probability in zip(fresh, self._model.probabilities([each.samples for each in fresh]), strict=True):
                each.answer(probability)
            self._budget.spend(self._clock() - now)
        self._on_judged(len(fresh), len(pauses) - len(fresh))
