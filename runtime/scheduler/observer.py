"""The observer of the engine loop. The default ignores everything; the server makes metrics of it."""

from collections.abc import Sequence

from runtime.scheduler.batcher import Batcher
from runtime.scheduler.requests import Result
from runtime.scheduler.steps import Step


class Observer:
    """Receives steps and results on the engine loop's thread; must be quick."""

    def step(self, step: Step, seconds: float, batcher: Batcher) -> None:
        """One encode, decode or alignment was run (or failed) in `seconds`."""

    def results(self, results: Sequence[Result]) -> None:
        """Requests were answered, at least one, by one step or one message."""
