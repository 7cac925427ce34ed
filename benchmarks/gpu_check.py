"""Everything that needs a GPU, in one run of less than ten minutes: python -m benchmarks.gpu_check OUTDIR

Each stage is a separate process with a time limit: a stage that fails or hangs is reported and ended with all its processes, and
the next one follows. The most important stages come first. Nothing is installed: benchmarks/borrowed_gpu/bundle.sh packs the
packages that a machine without network lacks. Writes gpu_check.json, gpu_check.md and a JSON line for each result to OUTDIR.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine
from runtime import hardware
from runtime.engine import tensorrt_package
from runtime.engine.manifest import TENSORRT, TORCH

PROJECT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 570  # for all stages; the rest of ten minutes is for starting and reporting
NEEDED = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "moonshine_cpp",
    "pydantic",
    "rich",
    "httpx",
    "pytest",
    "hypothesis",
    "uvloop",
    "prometheus_client",
    "msgspec",
    "zmq",
    "itsdangerous",
    "whisper_normalizer",
)
TENSORRT_NEEDS = ("cuda.core", "cuda.bindings")
KEPT_CHARACTERS = 24_000  # of a stage's output
KILL_SECONDS = 10.0  # a process that waits for a device may end slowly
REQUIREMENTS = "requirements"
INTERVALS_MS = (1120.0, 250.0)
GPU_TESTS = "tests/runtime/engine/test_gpu.py"
STREAMING_GPU_TESTS = "tests/runtime/engine/test_gpu_streaming.py"
CPU_TESTS = ("tests/runtime/engine/test_packed_encoder.py", "tests/runtime/engine/test_slot_groups.py")


@dataclass(frozen=True)
class Stage:
    name: str
    command: tuple[str, ...]
    limit_seconds: float


@dataclass(frozen=True)
class Size:
    """The amount of each measurement."""

    precision: str
    batches: tuple[int, ...]
    """Batches to measure; the last one is also used for the live streams."""
    seconds: float
    """Seconds of a clip."""
    intervals_ms: tuple[float, ...]
    counts: tuple[int, ...]
    """Counts of live streams."""
    trial_seconds: float
    tests: tuple[str, ...]
    updates: tuple[str, ...]
    """Options of the benchmark of updates."""


ON_GPU = Size(
    "fp16",
    (1, 32, 256),
    10.0,
    INTERVALS_MS,
    (256, 512, 1024, 2048),
    25.0,
    (GPU_TESTS, STREAMING_GPU_TESTS, "-k", f"{TORCH}-fp16"),
    ("--sizes", "small", "--streams", "256", "--segments", "6", "12", "--new", "1.12"),
)
REHEARSAL = Size(
    "fp32",
    (1, 2),
    10.0,
    INTERVALS_MS[:1],
    (1, 2, 4),
    10.0,
    CPU_TESTS,
    ("--sizes", "tiny", "--streams", "2", "--segments", "3"),
)
"""Size for a machine without a GPU: the torch engine runs on the CPU."""
SMOKE = Size(
    "fp32",
    (1,),
    2.0,
    INTERVALS_MS[:1],
    (1,),
    4.0,
    ("tests/runtime/engine/test_shapes.py",),
    ("--sizes", "--streams", "1", "--segments", "2"),
)


@dataclass
class Outcome:
    name: str
    passed: bool
    seconds: float
    said: str
    """The end of its output."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("outdir", type=Path, help="or the word requirements: only say what is missing")
    parser.add_argument("--engines", type=Path, default=PROJECT / "engines", help="where engines are built, or were")
    parser.add_argument("--smoke", action="store_true", help="every stage at its smallest: does it run?")
    arguments = parser.parse_args(argv)
    if str(arguments.outdir) == REQUIREMENTS:
        return check_requirements()
    arguments.outdir.mkdir(parents=True, exist_ok=True)
    size = SMOKE if arguments.smoke else ON_GPU if hardware.find_gpu() else REHEARSAL
    stages = plan(arguments.engines, arguments.outdir, size)
    outcomes = run_stages(stages, LIMIT_SECONDS, time.monotonic, run_process)
    found = {"machine": machine.describe(), "stages": [asdict(each) for each in outcomes]}
    (arguments.outdir / "gpu_check.json").write_text(json.dumps(found, indent=2) + "\n")
    (arguments.outdir / "gpu_check.md").write_text(report(found, outcomes))
    print(arguments.outdir / "gpu_check.md")
    return 0 if all(each.passed for each in outcomes) else 1


def check_requirements() -> int:
    """Print the installed versions, and the names of missing packages; returns the exit status."""
    for name, version in machine.describe()["versions"].items():
        print(name, version)
    missing = [name for name in NEEDED if not is_there(name)]
    if tensorrt_package.find() is not None:
        missing += [name for name in TENSORRT_NEEDS if not is_there(name)]
    print("missing:", ", ".join(missing) or "nothing")
    return 1 if missing else 0


def is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def plan(engines: Path, outdir: Path, size: Size) -> list[Stage]:
    """Return the stages, the most important first."""
    python, precision, batches = sys.executable, size.precision, tuple(map(str, size.batches))

    def benchmark(name: str, limit_seconds: float, *options: str) -> Stage:
        out = ("--engines", str(engines), "--out", str(outdir / "results.jsonl"))
        return Stage(name, (python, "benchmarks/run.py", *options, *out), limit_seconds)

    def build(target: str) -> Stage:
        command = (python, "engine_build/build.py", "--target", target, "--precision", precision, "--out", str(engines))
        return Stage(f"build {target} {precision}", command, 120)

    def tested(name: str, limit_seconds: float, *options: str) -> Stage:
        return Stage(name, (python, "-m", "pytest", *options, "-q", "-s", "--no-header"), limit_seconds)

    engine = ("engine", "--target", TORCH, "--precision", precision, "--batches", *batches, "--seconds", f"{size.seconds:g}")
    stages = [
        Stage(REQUIREMENTS, (python, "-m", "benchmarks.gpu_check", REQUIREMENTS), 30),
        Stage("the GPU", ("nvidia-smi",), 30),
        build(TORCH),
        tested("correct on the device", 200, *size.tests),
        benchmark(
            "live streams",
            100 + len(size.intervals_ms) * len(size.counts) * (size.trial_seconds + 8),
            "streams",
            "--target",
            TORCH,
            "--precisions",
            precision,
            "--counts",
            *map(str, size.counts),
            "--interval-ms",
            *map(str, size.intervals_ms),
            "--max-batch",
            batches[-1],
            "--workers",
            str(max(1, min(10, (os.cpu_count() or 2) - 4))),
            "--seconds",
            f"{size.trial_seconds:g}",
        ),
        benchmark("updates of streaming models", 240, "updates", "--target", TORCH, "--precision", precision, *size.updates),
        benchmark("engine benchmark", 120, *engine, "--peer", "no"),
        benchmark("beside transformers", 100, *engine, "--peer", "only"),
    ]
    if hardware.find_gpu() and tensorrt_package.find():
        stages += [
            Stage("does this TensorRT run on this GPU?", (python, "-m", "benchmarks.tensorrt_probe"), 60),
            build(TENSORRT),
            tested("correct by TensorRT", 120, GPU_TESTS, "-k", TENSORRT),
        ]
    return stages


def run_stages(
    stages: Sequence[Stage], limit_seconds: float, clock: Callable[[], float], run: Callable[[Stage, float], tuple[bool, str]]
) -> list[Outcome]:
    """Run the stages in order, each within its limit and all within limit_seconds; returns one outcome for every stage."""
    outcomes, deadline = [], clock() + limit_seconds
    for stage in stages:
        left, began = deadline - clock(), clock()
        if left <= 0:
            outcomes.append(Outcome(stage.name, False, 0.0, f"not begun: {limit_seconds:.0f} s were up"))
            continue
        print(f"{stage.name} …", flush=True)
        passed, said = run(stage, min(stage.limit_seconds, left))
        outcomes.append(Outcome(stage.name, passed, clock() - began, said))
        print(f"{stage.name}: {'passed' if passed else 'FAILED'} after {clock() - began:.0f} s", flush=True)
    return outcomes


def run_process(stage: Stage, limit_seconds: float) -> tuple[bool, str]:
    """Run a stage. At its limit it is killed with all processes that it started."""
    environment = (
        os.environ | {"PYTHONUNBUFFERED": "1"} | ({} if hardware.find_gpu() else {hardware.TORCH_DEVICE_VARIABLE: "cpu"})
    )
    try:
        process = subprocess.Popen(
            stage.command,
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as exc:
        return False, f"{stage.command[0]} could not be started: {exc}"
    try:
        said, _ = process.communicate(timeout=limit_seconds)
        return process.returncode == 0, said[-KEPT_CHARACTERS:]
    except subprocess.TimeoutExpired:
        kill_all_of(process)
        said, _ = process.communicate()
        return False, f"{said[-KEPT_CHARACTERS:]}\nstopped at its limit of {limit_seconds:.0f} s"


def kill_all_of(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, and wait until each of them has ended."""
    for pid in [process.pid, *descendants_of(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            kill_and_wait(pid)


def kill_and_wait(pid: int) -> None:
    """Kill a process that need not be a child, and wait: a descriptor of it becomes readable when it has ended."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], KILL_SECONDS)
    finally:
        os.close(handle)


def descendants_of(pid: int) -> list[int]:
    """Return all processes that it started, and all that those started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants_of(child)]
    return found


def report(found: dict, outcomes: Sequence[Outcome]) -> str:
    about = found["machine"]
    card = f"{about['gpu'] or 'no GPU'} (compute capability {about['compute_capability']}, driver {about['driver']})"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# GPU check",
        "",
        f"{card}, {about['cpu']}, {about['cores']} cores, commit {about['commit']}, {about['date']}",
        "",
        f"Versions: {versions}",
        "",
        "| stage | outcome | seconds |",
        "|---|---|---|",
        *(f"| {each.name} | {'passed' if each.passed else '**failed**'} | {each.seconds:.0f} |" for each in outcomes),
    ]
    for each in outcomes:
        lines += ["", f"## {each.name}", "", "```", each.said.strip(), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
