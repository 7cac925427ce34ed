"""Live streams in several processes: one engine process, and processes with sessions and their speakers that use it.

It is the server with several gateways, without the network. python -m benchmarks.speakers '{"trial": …}' is one such process.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from benchmarks import trial as trials
from benchmarks.trial import SAMPLE_SECONDS, Outcome, Spoken, Trial, Utterance, recordings_of
from engine_build.checkpoint import DEFAULT_MODEL
from runtime.engine import selection
from runtime.tokenizer import Tokenizer
from server.processes.messages import SOCKET_VARIABLE
from server.processes.remote_engine import RemoteEngine
from server.sessions.registry import Sessions
from server.settings import Access, Settings
from server.telemetry.metrics import SHARED_VARIABLE, Metrics

PROJECT = Path(__file__).resolve().parent.parent
COSTS_VARIABLE, MODELLED_ENGINE = "MODELLED_COSTS", "benchmarks.modelled_engine"
READY_SECONDS = 240.0  # for an engine to be opened, its graphs captured
END_SECONDS = 60.0  # beyond the trial's own time
LEAD_SECONDS = 0.5  # from the announcement of a trial to its beginning


@dataclass(frozen=True)
class EngineProcess:
    """A running engine process."""

    process: subprocess.Popen
    address: str
    directory: Path
    """Directory where it shares its metrics."""

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def engine_process(trial: Trial) -> Iterator[EngineProcess]:
    """Start an engine process and yield it, perhaps before it is warm."""
    with tempfile.TemporaryDirectory(prefix="speakers-") as name:
        directory = Path(name)
        variables = {
            SOCKET_VARIABLE: f"ipc://{name}/engine",
            SHARED_VARIABLE: name,
            "ASR_ENGINE_DIR": trial.engines,
            "MOONSHINE_PRECISION": trial.precision,
            "ASR_TARGET": trial.target,
            "MAX_BATCH_SIZE": str(trial.max_batch),
            "ASR_MAX_SEGMENT_SECONDS": f"{trial.max_segment_seconds:g}",
            "ASR_LOG_LEVEL": "warning",
        }
        if trial.modelled:
            variables[COSTS_VARIABLE] = json.dumps(trial.modelled)
        command = [sys.executable, "-m", MODELLED_ENGINE if trial.modelled else "server.processes.engine_process"]
        process = subprocess.Popen(command, cwd=PROJECT, env=os.environ | variables)
        try:
            yield EngineProcess(process, variables[SOCKET_VARIABLE], directory)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def try_in_processes(trial: Trial, references: dict[str, str], engine: EngineProcess) -> Outcome:
    """Run a trial in processes. Raises RuntimeError if a process fails."""
    with tempfile.TemporaryDirectory(prefix="speakers-") as name:
        speakers = [start_speakers(trial, number, engine.address, Path(name)) for number in range(trial.workers)]
        try:
            wait_until_ready(speakers, engine)
            began = time.monotonic() + LEAD_SECONDS
            cpu_before, steps_before = engine.cpu_seconds, trials.steps_seconds(read(engine.directory))
            spoken, backlogs = let_speak(speakers, began, trial, Path(name))
            seconds = time.monotonic() - began
            steps_seconds = trials.steps_seconds(read(engine.directory)) - steps_before
            late_updates = trials.late_updates(read(Path(name)))
        finally:
            for each in speakers:
                each.kill()
                each.wait()
        outcome = trials.outcome_of(trial, seconds, spoken, references, backlogs, late_updates, steps_seconds)
        return dataclasses.replace(outcome, engine_cores=round((engine.cpu_seconds - cpu_before) / seconds, 2))


def start_speakers(trial: Trial, number: int, address: str, directory: Path) -> subprocess.Popen:
    asked = {"trial": dataclasses.asdict(trial), "number": number, "address": address}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speakers", json.dumps(asked)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {SHARED_VARIABLE: str(directory)},
    )


def wait_until_ready(speakers: Sequence[subprocess.Popen], engine: EngineProcess) -> None:
    """Wait until the speakers are ready. Raises RuntimeError if the engine or a process of speakers ends before."""
    with concurrent.futures.ThreadPoolExecutor(len(speakers)) as pool:
        waiting = [pool.submit(each.stdout.readline) for each in speakers]
        deadline = time.monotonic() + READY_SECONDS
        while not all(each.done() for each in waiting):
            if engine.process.poll() is not None or time.monotonic() > deadline:
                for each in speakers:
                    each.kill()
            time.sleep(0.1)
        if any(each.result() != "ready\n" for each in waiting):
            raise RuntimeError("the engine process or a process of speakers was not ready")


def let_speak(speakers: Sequence[subprocess.Popen], began: float, trial: Trial, directory: Path) -> tuple[Spoken, list[float]]:
    """Run the speakers; returns their results, and the backlogs measured meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(len(speakers)) as pool:
        limit_seconds = trial.seconds + END_SECONDS
        ending = [pool.submit(each.communicate, f"{began}\n", limit_seconds) for each in speakers]
        backlogs = []
        while not all(each.done() for each in ending):
            time.sleep(SAMPLE_SECONDS)
            backlogs.append(trials.backlog_seconds(read(directory)))
        printed = [each.result()[0] for each in ending]
    if any(each.returncode for each in speakers):
        raise RuntimeError("a process of speakers failed")
    parts = [spoken_from(json.loads(each.splitlines()[-1]), trial) for each in printed]
    return Spoken([one for part in parts for one in part.utterances], [one for part in parts for one in part.errors]), backlogs


def read(directory: Path) -> str:
    """Return the metrics of all processes that share this directory."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))
    return generate_latest(registry).decode()


def spoken_as_json(spoken: Spoken) -> dict:
    utterances = [vars(each) | {"recording": each.recording.name} for each in spoken.utterances]
    return {"utterances": utterances, "errors": spoken.errors}


def spoken_from(found: dict, trial: Trial) -> Spoken:
    recordings = {each.name: each for each in recordings_of(trial.speech)}
    return Spoken(
        [Utterance(**each | {"recording": recordings[each["recording"]]}) for each in found["utterances"]], found["errors"]
    )


async def speak(trial: Trial, number: int, address: str) -> Spoken:
    """Run the speakers of one process: every `workers`th speaker of the trial."""
    settings = Settings(session=trial.limits, access=Access(max_sessions=100_000))
    choice = selection.choose(Path(trial.engines), DEFAULT_MODEL, trial.precision, trial.target)
    sessions = Sessions(RemoteEngine([address]), Tokenizer.load(choice.directory), settings, Metrics())
    sessions.start()
    await sessions.until_warm()
    print("ready", flush=True)
    began = float(sys.stdin.readline())
    spoken = await trials.speak_all(
        trial,
        range(number, trial.streams, trial.workers),
        began,
        lambda recording, end: trials.speak_in_process(sessions, recording, end),
    )
    await sessions.shut_down(timeout_seconds=10.0)
    return spoken


def main() -> int:
    asked = json.loads(sys.argv[1])
    trial = Trial(**asked["trial"])
    recordings_of(trial.speech)  # decoded before the speakers begin
    spoken = uvloop.run(speak(trial, asked["number"], asked["address"]))
    print(json.dumps(spoken_as_json(spoken)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
