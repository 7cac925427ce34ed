"""Engines with the real weights. Imported only where a test needs one: opening them imports torch or ONNX Runtime."""

import dataclasses
import fcntl
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto

from engine_build import build, checkpoint, graphs
from runtime.engine import manifest, selection
from runtime.engine.device_engine import DeviceEngine
from runtime.engine.manifest import (
    ALIGNER_FILE,
    ALIGNER_PLAN,
    DECODER_FILE,
    DECODER_PLAN,
    ENCODER_FILE,
    ENCODER_PLAN,
    NATIVE,
    ONNXRUNTIME,
    TENSORRT,
    TORCH,
)
from runtime.engine.protocol import Engine
from runtime.engine.tensorrt_engine import TensorRtDevice
from runtime.engine.torch_engine import open_torch
from runtime.tokenizer import Tokenizer
from tests.conftest import ENGINES, MODEL
from tests.host_cuda import HostCuda, HostTensorRt

TENSORRT_BATCHES = {"fp16": 8, "bf16": 1, "fp32": 1, "int8": 1}
"""Compiling for 32 takes minutes more; scripts/gpu_check.sh does."""

Built = Callable[..., Path]


@dataclasses.dataclass(frozen=True)
class Opened:
    """An engine with its tokenizer."""

    engine: Engine
    tokenizer: Tokenizer


def builder() -> Built:
    """Gives the engine directory of a precision; an engine that this source has built before is not built again."""
    directories: dict[tuple[str, ...], Path] = {}

    def directory_of(precision: str, target: str = ONNXRUNTIME, *options: str) -> Path:
        asked = (precision, target, *options)
        if asked not in directories:
            ENGINES.mkdir(exist_ok=True)
            with (ENGINES / ".tests.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
                assert build.main(["--precision", precision, "--target", target, "--out", str(ENGINES), *options]) == 0
                directories[asked] = ENGINES / manifest.directory_name(MODEL, target, precision)
        return directories[asked]

    return directory_of


def open_onnx(precision: str, built: Built, max_batch: int = 8) -> Opened:
    built(precision)
    engine, tokenizer, _ = selection.open_engine(selection.choose(ENGINES, MODEL, precision, ONNXRUNTIME), max_batch)
    return Opened(engine, tokenizer)


def open_native(precision: str, built: Built, max_batch: int = 8, threads: int | None = None) -> Opened:
    built(precision, NATIVE)
    engine, tokenizer, _ = selection.open_engine(selection.choose(ENGINES, MODEL, precision, NATIVE), max_batch, threads)
    return Opened(engine, tokenizer)


def open_torch_on_cpu(precision: str, built: Built, max_batch: int = 8, packs: bool = False, groups: int = 1) -> Opened:
    directory = built(precision, TORCH)
    found = manifest.load(directory, MODEL, TORCH, precision, max_batch)
    return Opened(open_torch(directory, found, max_batch, device="cpu", packs=packs, groups=groups), Tokenizer.load(directory))


def plans_of(precision: str, built: Built) -> Path:
    """A TensorRT engine: fp16 in every batch, the others, whose graphs are the same, in the smallest."""
    return built(precision, TENSORRT, "--max-batch", str(TENSORRT_BATCHES[precision]), "--flavour", "tensorrt-rtx")


def save_models(precision: str, directory: Path, spoil: Callable[[ModelProto], None] = lambda model: None) -> None:
    """Write the networks with Base's weights as ONNX, what TensorRT compiles. spoil: is given encoder and decoder before."""
    for name, model in graphs.models(checkpoint.load(MODEL, say=print), precision).items():
        if name != ALIGNER_FILE:
            spoil(model)
        onnx.save(model, directory / name)


def opener_on_host(plans: Path, directory: Path) -> Callable[..., tuple[DeviceEngine, TensorRtDevice]]:
    """Opens the TensorRT engine in float16 on a stand-in for the GPU: see tests/host_cuda.py. directory: for its plans."""
    built = manifest.load(plans, MODEL, TENSORRT, "fp16", 8)
    save_models("fp16", directory)
    for plan, source in ((ENCODER_PLAN, ENCODER_FILE), (DECODER_PLAN, DECODER_FILE), (ALIGNER_PLAN, ALIGNER_FILE)):
        (directory / plan).write_text(str(directory / source))

    def open_engine(
        cuda: HostCuda, max_batch: int = 8, max_seconds: float | None = None, graphs: bool = False, trt: type = HostTensorRt
    ):
        device = TensorRtDevice(directory, built, max_batch, max_seconds, trt, cuda, graphs)
        return DeviceEngine(device, built, max_batch), device

    return open_engine
