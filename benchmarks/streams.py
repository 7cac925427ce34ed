"""Finds how many live streams a machine can serve under the strict rule: trials in fresh processes, steps, then bisection."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.simulation import Simulation
from benchmarks.speakers import engine_process, try_in_processes
from benchmarks.trial import WER_WORDS, Outcome, Trial, pooled, recordings_of
from engine_build.checkpoint import DEFAULT_MODEL
from runtime.engine import selection
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer
from server.startup import SEGMENT_MARGIN_SECONDS

PROJECT = Path(__file__).resolve().parent.parent
TRIAL_LIMIT_SECONDS = 120.0  # beyond the trial's own time, for the process to start and to end


@dataclass
class Capacity:
    """The result of a search."""

    trial: Trial
    """The settings, with the number of streams served; 0 if not even one was."""
    confirmed: Outcome | None = None
    """The long trial that passed."""
    one_more: Outcome | None = None
    """The trial with one more stream that failed."""
    trials: list[Outcome] = field(default_factory=list)


class Alone(dict[str, str]):
    """The text of one stream alone, by name of the recording; transcribed on first access."""

    def __init__(self, trial: Trial, engine: Engine, tokenizer: Tokenizer):
        super().__init__()
        self._trial, self._engine, self._tokenizer = trial, engine, tokenizer

    def __missing__(self, name: str) -> str:
        samples = next(each.samples for each in recordings_of(self._trial.speech) if each.name == name)
        self[name] = Simulation(self._engine, self._tokenizer, self._trial.limits).run(samples)
        return self[name]


@contextlib.contextmanager
def alone(*trials: Trial) -> Iterator[list[Alone]]:
    """Yield the texts for each trial, all from the same engine."""
    of = trials[0]
    choice = selection.choose(Path(of.engines), DEFAULT_MODEL, of.precision, of.target)
    longest_seconds = of.max_segment_seconds + SEGMENT_MARGIN_SECONDS
    engine, tokenizer, _ = selection.open_engine(choice, max_batch=2, max_seconds=longest_seconds)
    with contextlib.closing(engine):
        yield [Alone(trial, engine, tokenizer) for trial in trials]


def references_of(trial: Trial) -> dict[str, str]:
    with alone(trial) as (texts,):
        return {each.name: texts[each.name] for each in recordings_of(trial.speech)}


def try_counts(
    settings: Sequence[Trial], counts: Sequence[int], progress: Callable[[str], None]
) -> Iterator[tuple[Trial, Outcome]]:
    """Yield a trial for each of the settings and each count of streams, all on the same engine process."""
    with alone(*settings) as texts, engine_process(settings[0]) as engine:
        for (setting, references), streams in itertools.product(zip(settings, texts, strict=True), counts):
            progress(f"{streams} streams, every {setting.interval_ms:g} ms, {setting.seconds:g} s")
            trial = dataclasses.replace(setting, streams=streams)
            yield trial, try_in_processes(trial, references, engine)


def run_in_fresh_process(trial: Trial, references: dict[str, str]) -> Outcome:
    """Run a trial in a fresh process. Raises RuntimeError if the process fails."""
    asked = {"trial": dataclasses.asdict(trial), "references": references}
    command = [sys.executable, "-m", "benchmarks.trial_process", json.dumps(asked)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=trial.seconds + TRIAL_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the server it may have started
            raise
    if process.returncode:
        raise RuntimeError(f"the trial failed:\n{err[-2000:]}")
    return Outcome(**json.loads(out.splitlines()[-1]))


def search(
    settings: Trial, start: int, step: int, long_seconds: float, run: Callable[[Trial], Outcome], progress: Callable[[str], None]
) -> Capacity:
    """Find the largest number of streams that passes trials of settings.seconds and one of long_seconds.

    Steps up from `start` until a trial fails, or down until one passes; bisects; confirms with the long trial, with one stream
    fewer as long as that fails.
    """
    found = Capacity(settings)

    def passes(streams: int, seconds: float) -> bool:
        progress(f"{settings.way}, {settings.precision}, every {settings.interval_ms:g} ms: {streams} streams, {seconds:g} s")
        outcome = run(dataclasses.replace(settings, streams=streams, seconds=seconds, seed=len(found.trials)))
        found.trials.append(outcome)
        outcome.broken = outcome.broken or together(streams).broken
        return not outcome.broken

    def together(streams: int) -> Outcome:
        return pooled([each for each in found.trials if each.streams == streams])

    def passes_for_long(streams: int) -> bool:
        """Repeat the long trial until there are enough words to judge."""
        while passes(streams, long_seconds):
            if together(streams).words >= WER_WORDS:
                return True
        return False

    good, bad, streams = 0, None, start
    while streams and not (good and bad):
        if passes(streams, settings.seconds):
            good = streams
            streams += step
        else:
            bad = streams
            streams = max(1, streams - step) if streams > 1 else 0
    while good and bad - good > 1:
        middle = (good + bad) // 2
        if passes(middle, settings.seconds):
            good = middle
        else:
            bad = middle
    while good and not passes_for_long(good):
        good -= 1
    found.trial = dataclasses.replace(settings, streams=good)
    found.confirmed = next((each for each in reversed(found.trials) if each.streams == good and not each.broken), None)
    found.one_more = next((each for each in reversed(found.trials) if each.streams == good + 1 and each.broken), None)
    return found
