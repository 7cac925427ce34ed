"""From what was asked for to an engine that runs: which target, which precision, which directory."""

from dataclasses import dataclass
from pathlib import Path

from runtime import manifest
from runtime.engine import Engine
from runtime.manifest import Manifest
from runtime.onnx_engine import TARGET as ONNXRUNTIME
from runtime.onnx_engine import OnnxEngine
from runtime.tokenizer import Tokenizer

CPU_PRECISIONS = {None: "fp32", "fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "fp32"}  # asked for: run


@dataclass(frozen=True)
class Choice:
    """The engine that will be opened."""

    directory: Path
    model: str
    target: str
    precision: str
    remark: str | None
    """Where it differs from what was asked for, a line that says so."""


def choose(engines: Path, model: str, precision: str | None) -> Choice:
    """Decide which engine serves `model` on this machine. Opens nothing."""
    running = CPU_PRECISIONS[precision]
    remark = None
    if precision not in (None, running):
        remark = f"the CPU engine does not compute {precision}; running {running}"
    directory = engines / manifest.directory_name(model, ONNXRUNTIME, running)
    return Choice(directory, model, ONNXRUNTIME, running, remark)


def open_engine(choice: Choice, max_batch: int, threads: int | None = None) -> tuple[Engine, Tokenizer, Manifest]:
    """Raises EngineDirectoryError with one line that says what to run."""
    found = manifest.load(choice.directory, choice.model, choice.target, choice.precision, max_batch)
    tokenizer = Tokenizer.load(choice.directory)
    return OnnxEngine(choice.directory, found, max_batch, threads), tokenizer, found
