"""Selection of the engine to run: target, precision and directory."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime import hardware
from runtime.engine import known_clip, manifest, tensorrt_package
from runtime.engine.manifest import COMPILED_LIBRARIES, NATIVE, NATIVE_FLAGS, ONNXRUNTIME, TENSORRT, TORCH, Manifest
from runtime.engine.protocol import Engine
from runtime.exceptions import EngineDirectoryError
from runtime.tokenizer import Tokenizer

TARGETS = (ONNXRUNTIME, NATIVE, TENSORRT, TORCH)
CPU_TARGETS = (NATIVE, ONNXRUNTIME)
CPU_PRECISIONS = {
    ONNXRUNTIME: {"fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "fp32"},
    NATIVE: {"fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "bf16"},
}
"""Precision that each CPU target runs, by the requested precision."""
GPU_PRECISION = "fp16"  # the default


@dataclass(frozen=True)
class Choice:
    """The engine that will be opened."""

    directory: Path
    model: str
    target: str
    precision: str
    remark: str | None
    """One line on how the choice differs from the request, or on its weakness, if any."""


def target_to_build(precision: str | None, flavour: str | None = None) -> tuple[str, str]:
    """Return the best target for this machine, and the reason as text. Like detect_target(), but with native in place of
    onnxruntime where native can run and is faster."""
    target = detect_target(flavour)
    if target != ONNXRUNTIME:
        return target, "there is a GPU, and the package for it"
    if reason := why_not_native(precision):
        return target, reason
    if not can_have_native():
        return target, "the native engine, which is faster, needs a C++ compiler: install g++"
    return NATIVE, "it is the fastest on this processor"


def wants_compiler() -> bool:
    """True if the native engine would be the best here, but cannot be compiled."""
    return detect_target() == ONNXRUNTIME and not why_not_native(None) and not can_have_native()


def can_have_native() -> bool:
    """True if the package has libraries, or the machine has a compiler."""
    return COMPILED_LIBRARIES.is_dir() or bool(hardware.find_compiler())


def why_not_native(precision: str | None) -> str:
    """Return the reason why auto does not choose the native engine on this processor; empty if it does. precision: requested."""
    if not hardware.has_flags(NATIVE_FLAGS):
        return f"the native engine needs a processor with {', '.join(NATIVE_FLAGS)}"
    running = precision or default_precision(NATIVE)
    if running == "int8" or (running == "bf16" and hardware.has_flags(["avx512_bf16"])):
        return ""
    return f"in {running} the native engine is no faster on this processor"


def target_to_serve(engines: Path, model: str, precision: str | None) -> str:
    """Choose like target_to_build(), but if the best target's engine is not built, accept another target's engine that is:
    onnxruntime for native, torch for tensorrt."""
    target, _ = target_to_build(precision)
    if target == TENSORRT:
        acceptable: tuple[str, ...] = (TENSORRT, TORCH)
    elif target in CPU_TARGETS and not why_not_native(precision):
        acceptable = CPU_TARGETS
    else:
        return target
    names = {each: manifest.directory_name(model, each, running_precision(each, precision)) for each in acceptable}
    return next((each for each, name in names.items() if (engines / name / manifest.FILE_NAME).is_file()), target)


def detect_target(flavour: str | None = None) -> str:
    """Return the best target that needs nothing compiled for a processor: tensorrt or torch if there is a GPU and the package,
    else onnxruntime."""
    found = hardware.find_gpu()
    if found is None:
        return ONNXRUNTIME
    package = tensorrt_package.find(flavour)
    if package and package.runs_on(found.compute_capability):
        return TENSORRT
    return TORCH if torch_has_cuda() else ONNXRUNTIME


def torch_has_cuda() -> bool:
    """True if the installed torch has CUDA, by its version (2.13.0+cpu); importing it takes seconds."""
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def default_precision(target: str) -> str:
    """Return the best precision for this machine.

    With VNNI, int8 takes a third of float32's time with the same quality (docs/quality.md).
    """
    if target not in CPU_TARGETS:
        return GPU_PRECISION
    if target == NATIVE:
        return "int8"  # with 8 bits on every processor it runs on
    return "int8" if hardware.has_vnni() else "fp32"


def running_precision(target: str, asked: str | None) -> str:
    """Return the precision that the target computes in if `asked` is requested."""
    wanted = asked or default_precision(target)
    return CPU_PRECISIONS[target][wanted] if target in CPU_TARGETS else wanted


def choose(engines: Path, model: str, precision: str | None, target: str | None = None) -> Choice:
    """Decide which engine serves `model` on this machine; target None: see target_to_serve. Opens nothing."""
    target = target or target_to_serve(engines, model, precision)
    running, remark = running_precision(target, precision), None
    if precision not in (None, running):
        remark = f"the CPU engine does not compute {precision}; running {running}"
    elif (target, running) == (ONNXRUNTIME, "int8") and not hardware.sums_int8_products_exactly():
        remark = "this processor has no VNNI: int8 takes weights of 7 bits here and loses words; fp32 does not"
    directory = engines / manifest.directory_name(model, target, running)
    return Choice(directory, model, target, running, remark)


def check(choice: Choice, max_batch: int) -> Manifest:
    """Check that the choice's engine exists and fits this machine's packages. Opens nothing.

    Raises EngineDirectoryError with one line that gives the command to run, DeviceError if the engine's device is missing.
    """
    found = manifest.load(choice.directory, choice.model, choice.target, choice.precision, max_batch)
    if choice.target == TENSORRT:
        from runtime.engine.tensorrt_engine import check_device, check_version

        check_version(choice.directory, found.plans, tensorrt_package.find(found.plans.flavour))
        check_device(choice.directory, found.plans, hardware.find_gpu())
    if choice.target in CPU_TARGETS:
        check_processor(choice, found, max_batch)
    return found


def check_processor(choice: Choice, found: Manifest, max_batch: int) -> None:
    """Raises EngineDirectoryError if every library has instructions that this processor lacks, or if its sums would overflow
    with the int8 weights."""
    if choice.target == NATIVE:
        library_of(choice, found)
    if found.needs_exact_int8_sums and not hardware.sums_int8_products_exactly():
        advice = manifest.build_command(choice.model, choice.target, choice.precision, max_batch, choice.directory.parent)
        raise EngineDirectoryError(f"{choice.directory} was built for a processor with VNNI, which this is not; run: {advice}")


def library_of(choice: Choice, found: Manifest) -> str:
    """Return the native engine's file for this processor. Raises EngineDirectoryError if there is none."""
    library = library_for(found.libraries)
    if library is None:
        raise EngineDirectoryError(
            f"{choice.directory} has no library for this processor, only {', '.join(found.libraries) or 'none'}; "
            "ASR_TARGET=onnxruntime runs anywhere"
        )
    return library


def library_for(libraries: Mapping[str, Iterable[str]]) -> str | None:
    """Return the first of a manifest's libraries that runs on this processor; None if there is none."""
    return next((name for name, flags in libraries.items() if hardware.has_flags(flags)), None)


def open_engine(
    choice: Choice, max_batch: int, threads: int | None = None, max_seconds: float | None = None, max_streams: int = 0
) -> tuple[Engine, Tokenizer, Manifest]:
    """Open the chosen engine. threads: of the CPU engine; max_seconds: longest clip that will be requested (default: any);
    max_streams: streams whose audio a streaming model's engine keeps.

    Raises EngineDirectoryError with one line that gives the command to run, DeviceError if the engine's device is missing,
    EngineFailed if it transcribes the known clip wrongly.
    """
    found = manifest.load(choice.directory, choice.model, choice.target, choice.precision, max_batch)
    tokenizer = Tokenizer.load(choice.directory)
    engine = open_target(choice, found, max_batch, threads, max_seconds, max_streams)
    if found.known_tokens:
        known_clip.check(engine, tokenizer, found.known_tokens)
    return engine, tokenizer, found


def open_target(
    choice: Choice, found: Manifest, max_batch: int, threads: int | None, max_seconds: float | None, max_streams: int = 0
) -> Engine:
    """Open the engine. Each engine's module imports its own package; serving imports no other."""
    if choice.target == TENSORRT:
        from runtime.engine.tensorrt_engine import open_tensorrt

        return open_tensorrt(choice.directory, found, max_batch, max_seconds)
    if choice.target == TORCH:
        from runtime.engine.torch_engine import open_torch

        return open_torch(choice.directory, found, max_batch, max_seconds)
    check_processor(choice, found, max_batch)
    if choice.target == NATIVE:
        if found.stream_encoder:
            from runtime.engine.native_stream_engine import NativeStreamEngine

            return NativeStreamEngine(
                choice.directory, library_of(choice, found), found, max_batch, threads, max_streams, max_seconds
            )
        from runtime.engine.native_clip_engine import NativeClipEngine

        return NativeClipEngine(choice.directory, library_of(choice, found), found, max_batch, threads)
    if found.stream_encoder:
        from runtime.engine.onnx_stream_engine import OnnxStreamEngine

        return OnnxStreamEngine(choice.directory, found, max_batch, threads, max_streams, max_seconds)
    from runtime.engine.onnx_clip_engine import OnnxClipEngine

    return OnnxClipEngine(choice.directory, found, max_batch, threads)
