"""The TensorRT target: the exported ONNX compiled into a plan each for encoder, decoder and aligner.

Networks are strongly typed: precision is in the ONNX. Every profile is one shape, the one that will be captured as a CUDA
graph. Only the number of audio frames attended to is left open, because the engine decides it when it opens. The aligner has
one profile, for a single row: it runs seldom, for one stream at a time.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from engine_build import graphs, quantisation
from engine_build.checkpoint import Checkpoint
from engine_build.options import BuildError, BuildOptions, Stages, UnsupportedModel
from runtime import hardware
from runtime.audio import SAMPLE_RATE
from runtime.engine import tensorrt_package
from runtime.engine.manifest import (
    ALIGNER_FILE,
    ALIGNER_PLAN,
    DECODER_FILE,
    DECODER_PLAN,
    ENCODER_FILE,
    ENCODER_PLAN,
    Manifest,
    Plans,
)
from runtime.engine.shapes import PLAN_NEW_TOKENS, Shape, padded_frames, shapes_up_to
from runtime.engine.tensorrt_package import TensorRt
from runtime.engine.token_biases import TABLE_LAYOUT

PRECISIONS = {precision: precision for precision in ("fp16", "bf16", "fp32", "int8")}
GRAPHS = {"fp16": "fp16", "bf16": "bf16", "fp32": "fp32", "int8": "fp16"}  # precision built: precision of its graphs
PACKAGES = ()  # the plans name their own package
CACHE_BLOCK = 8  # makes rows of scores a multiple of 16 bytes long in half precision
OPTIMAL_SECONDS = 13.0  # audio that decoder kernels are tuned for: the longest segment of the default settings

Dims = tuple[int, ...]
Range = tuple[Dims, Dims, Dims]  # smallest, best, largest


def write(options: BuildOptions, weights: Checkpoint, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Compile the plans. Raises UnsupportedModel for a streaming model, BuildError without TensorRT or if it refuses a node,
    which the message names."""
    if built.stream_encoder:
        raise UnsupportedModel(
            f"{options.model} is a streaming model, which TensorRT's engine does not run yet; --target torch does"
        )
    package = tensorrt_package.find(options.flavour)
    if package is None:
        raise BuildError(
            f"{options.flavour or 'TensorRT'} is not installed: pip install tensorrt-rtx-cu13 (builds without a GPU), "
            "or tensorrt from NVIDIA's index"
        )
    stages.begin("fill the graphs with the weights")
    models = graphs.models(weights, GRAPHS[options.precision])
    if options.precision == "int8":
        stages.begin("quantise the weights")
        for name in (ENCODER_FILE, DECODER_FILE):
            quantisation.quantise_weights(models[name])
    shapes = shapes_up_to(options.max_batch, built.max_samples, built.max_positions, PLAN_NEW_TOKENS)
    positions = -(-built.max_positions // CACHE_BLOCK) * CACHE_BLOCK
    for component, source, plan in (("encoder", ENCODER_FILE, ENCODER_PLAN), ("decoder", DECODER_FILE, DECODER_PLAN)):
        own = [shape for shape in shapes if shape.component == component]
        stages.begin(f"compile the {component} for {len(own)} shapes")
        ranges = [input_ranges(shape, built, positions) for shape in own]
        data = compile_plan(package, source, models[source].SerializeToString(), ranges, stages)
        (directory / plan).write_bytes(data)
    stages.begin("compile the aligner")
    ranges = [aligner_ranges(built)]
    data = compile_plan(package, ALIGNER_FILE, models[ALIGNER_FILE].SerializeToString(), ranges, stages)
    (directory / ALIGNER_PLAN).write_bytes(data)
    plans = Plans(
        flavour=package.flavour,
        version=package.version,
        compute_capabilities=capabilities_of(package),
        cache_positions=positions,
        profiles=tuple(shapes),
    )
    return built.model_copy(update={"plans": plans, "versions": built.versions | {package.flavour: package.version}})


def check_machine() -> None:
    """Always pass: nothing is needed besides the packages."""


def is_current(options: BuildOptions, built: Manifest) -> bool:
    """True if the plans are from the TensorRT that would build them now, and for this machine's GPU."""
    package, plans = tensorrt_package.find(options.flavour), built.plans
    asked = package and (package.flavour, package.version, capabilities_of(package))
    return (plans.flavour, plans.version, plans.compute_capabilities) == asked


def capabilities_of(package: TensorRt) -> tuple[str, ...]:
    """Return the compute capabilities of the GPUs that plans of this package run on."""
    if package.flavour == "tensorrt-rtx":
        return tensorrt_package.RTX_CAPABILITIES
    found = hardware.find_gpu()
    return (found.compute_capability,) if found else ()


def input_ranges(shape: Shape, built: Manifest, positions: int) -> dict[str, Range]:
    """Return the smallest, best and largest shape of every input of the shape's component."""
    batch = shape.batch
    per_row = ((batch,),) * 3
    if shape.component == "encoder":
        return {"audio": ((batch, shape.length),) * 3, "lengths": per_row}
    past, cross = ((batch, built.heads, positions, built.head_dim),) * 3, cross_range(built, batch)
    per_token, per_bias = ((batch, shape.length),) * 3, (TABLE_LAYOUT.fields["tokens"].shape,) * 3
    ranges = {"tokens": per_token, "past_lengths": per_row, "frames": per_row, "end_bias": per_row}
    ranges |= {"bias_lists": per_token, "biased_tokens": per_bias, "biases": per_bias}
    for layer in range(built.decoder_layers):
        ranges |= {f"past_key.{layer}": past, f"past_value.{layer}": past}
        ranges |= {f"cross_key.{layer}": cross, f"cross_value.{layer}": cross}
    return ranges


def aligner_ranges(built: Manifest) -> dict[str, Range]:
    """Return the ranges for one row with the most tokens of a row."""
    ranges = {"tokens": ((1, built.max_positions),) * 3, "frames": ((1,),) * 3}
    caches = [f"{cache}.{layer}" for layer in range(built.aligner_layers) for cache in ("cross_key", "cross_value")]
    return ranges | dict.fromkeys(caches[:-1], cross_range(built, batch=1))


def cross_range(built: Manifest, batch: int) -> Range:
    frames = (1, padded_frames(int(OPTIMAL_SECONDS * SAMPLE_RATE)), padded_frames(built.max_samples))
    least, usual, most = ((batch, built.heads, count, built.head_dim) for count in frames)
    return least, usual, most


def compile_plan(package: TensorRt, name: str, model: bytes, profiles: list[dict[str, Range]], stages: Stages) -> bytes:
    """Return the serialised plan of one ONNX. name: name of its file, for messages. Raises BuildError."""
    trt = package.module
    if package.flavour == "tensorrt" and hardware.find_gpu() is None:
        raise BuildError("the tensorrt package compiles on the GPU it compiles for, and there is none here")
    builder = trt.Builder(logger_of(package))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(package, network, name, model)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is the reference
    config.max_aux_streams = 0  # the networks are chains; another stream would only fork and join in every graph
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # TensorRT for RTX: stream capture needs it
    names = {network.get_input(index).name for index in range(network.num_inputs)}
    for ranges in profiles:
        if names != ranges.keys():
            raise BuildError(f"{name} has the inputs {sorted(names)}, not {sorted(ranges)}")
        profile = builder.create_optimization_profile()
        for each, (smallest, best, largest) in ranges.items():
            profile.set_shape(each, smallest, best, largest)
        config.add_optimization_profile(profile)
    config.progress_monitor = monitor_of(package, stages)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{package.flavour} {package.version} could not compile {name}; its own messages are above")
    return bytes(plan)


def parse(package: TensorRt, network, name: str, model: bytes) -> None:
    parser = package.module.OnnxParser(network, logger_of(package))
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        complaints = "; ".join(
            f"node {each.node_name() or '?'} ({each.node_operator() or '?'}): {each.desc()}" for each in errors
        )
        raise BuildError(f"{package.flavour} {package.version} refuses {name}: {complaints}")


def logger_of(package: TensorRt):
    """Return the process's only logger: TensorRT keeps the first one it gets."""
    global _logger
    if _logger is None:
        trt, console = package.module, Console(stderr=True)

        class Logger(trt.ILogger):  # type: ignore[name-defined,misc]  # the module is known when it runs
            def __init__(self):
                trt.ILogger.__init__(self)

            def log(self, severity, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    console.print(f"{package.flavour}: {message}", highlight=False, markup=False, soft_wrap=True)

        _logger = Logger()
    return _logger


_logger: Any = None


def monitor_of(package: TensorRt, stages: Stages):
    """Return a monitor that moves the stage's bar. The phases of a build form a tree; the finished share of each counts within
    its parent's step."""
    trt = package.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases[phase] = (parent, max(1, steps), 0)

        def step_complete(self, phase: str, step: int) -> bool:
            parent, steps, _ = self._phases[phase]
            self._phases[phase] = (parent, steps, step + 1)
            stages.advance(self._fraction(phase))
            return True

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)

        def _fraction(self, phase: str) -> float:
            share = 0.0
            while phase in self._phases:
                phase, steps, done = self._phases[phase]
                share = min(1.0, (done + share) / steps)
            return share

    return Monitor()
