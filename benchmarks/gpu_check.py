"""Everything that needs a GPU, in one run of less than ten minutes: python -m benchmarks.gpu_check OUTDIR

Each stage is a process of its own with a time limit: one that fails or hangs is reported and the next one goes on. What the
stages need is looked for first; nothing is installed. Writes gpu_check.json and gpu_check.md to OUTDIR.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine
from runtime import hardware
from runtime.engine import tensorrt_package

PROJECT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 570  # for everything; the rest of ten minutes is for starting and reporting
NEEDED = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "moonshine_cpp", "cuda.core", "cuda.bindings",
          "pydantic", "rich", "jiwer", "av", "pytest", "hypothesis")  # fmt: skip
KEPT_CHARACTERS = 24_000  # of a stage's output


@dataclass(frozen=True)
class Stage:
    name: str
    command: tuple[str, ...]
    limit_seconds: float


@dataclass
class Outcome:
    name: str
    passed: bool
    seconds: float
    said: str
    """The end of what it printed."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--engines", type=Path, default=PROJECT / "engines", help="where engines are built, or were")
    parser.add_argument("--quick", action="store_true", help="few batches and lengths in the benchmark")
    arguments = parser.parse_args(argv)
    arguments.outdir.mkdir(parents=True, exist_ok=True)
    stages = plan(arguments.engines, arguments.outdir, arguments.quick)
    outcomes = run_stages(stages, LIMIT_SECONDS, time.monotonic, run_process)
    found = {"machine": machine.describe(), "found": what_is_installed(), "stages": [asdict(each) for each in outcomes]}
    (arguments.outdir / "gpu_check.json").write_text(json.dumps(found, indent=2) + "\n")
    (arguments.outdir / "gpu_check.md").write_text(report(found, outcomes))
    print(arguments.outdir / "gpu_check.md")
    return 0 if all(each.passed for each in outcomes) else 1


def what_is_installed() -> dict[str, bool]:
    def there(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # of the package around it
            return False

    return {name: there(name) for name in NEEDED} | {
        flavour: tensorrt_package.find(flavour) is not None for flavour in tensorrt_package.FLAVOURS
    }


def plan(engines: Path, outdir: Path, quick: bool) -> list[Stage]:
    """What can be run with what is installed: what decides most first, other precisions last."""
    python, out = sys.executable, ("--out", str(engines))
    has_tensorrt, has_gpu = tensorrt_package.find() is not None, hardware.find_gpu() is not None

    def build(target: str, precision: str, *options: str) -> Stage:
        command = (python, "engine_build/build.py", "--target", target, "--precision", precision, *options, *out)
        return Stage(f"build {target} {precision}", command, 150)

    def test(name: str, selected: str) -> Stage:
        return Stage(
            name, (python, "-m", "pytest", "tests/runtime/engine/test_gpu.py", "-k", selected, "-q", "-s", "--no-header"), 120
        )

    stages = [Stage("the GPU", ("nvidia-smi",), 30)]
    if has_tensorrt:
        probe = (python, "-m", "benchmarks.tensorrt_probe", "--engines", str(engines))
        stages += [build("tensorrt", "fp16"), Stage("does this TensorRT run on this GPU?", probe, 60)]
    stages.append(build("torch", "fp16"))
    sizes = ("--batches", "1", "32", "--seconds", "10") if quick else ()
    result = ("--engines", str(engines), "--out", str(outdir / "engine.jsonl"), *sizes)
    stages.append(Stage("engine benchmark", (python, "benchmarks/run.py", "engine", *result), 200))
    if has_gpu:
        stages.append(test("tests marked gpu, fp16", "fp16"))
    if has_tensorrt:
        stages += [build("tensorrt", precision, "--max-batch", "8") for precision in ("int8", "bf16", "fp32")]
    if has_gpu and has_tensorrt:
        stages.append(test("tests marked gpu, other precisions", "not fp16"))
    return stages


def run_stages(
    stages: Sequence[Stage], limit_seconds: float, clock: Callable[[], float], run: Callable[[Stage, float], tuple[bool, str]]
) -> list[Outcome]:
    """Run the stages in order, each within its limit and all within theirs; one outcome for every stage."""
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
    try:
        done = subprocess.run(
            stage.command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_seconds
        )
    except subprocess.TimeoutExpired as exc:
        said = exc.stdout or b""
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        return False, f"{said[-KEPT_CHARACTERS:]}\nstopped at its limit of {limit_seconds:.0f} s"
    except OSError as exc:
        return False, f"{stage.command[0]} could not be started: {exc}"
    return done.returncode == 0, done.stdout[-KEPT_CHARACTERS:]


def report(found: dict, outcomes: Sequence[Outcome]) -> str:
    about = found["machine"]
    card = f"{about['gpu'] or 'no GPU'} (compute capability {about['compute_capability']}, driver {about['driver']})"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    missing = ", ".join(name for name, there in found["found"].items() if not there)
    lines = [
        "# GPU check", "", f"{card}, {about['cpu']}, {about['cores']} cores, commit {about['commit']}, {about['date']}",
        "", f"Versions: {versions}", "", f"Not installed: {missing or 'nothing that is asked for'}",
        "", "| stage | outcome | seconds |", "|---|---|---|",
        *(f"| {each.name} | {'passed' if each.passed else '**failed**'} | {each.seconds:.0f} |" for each in outcomes),
    ]  # fmt: skip
    for each in outcomes:
        lines += ["", f"## {each.name}", "", "```", each.said.strip(), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
