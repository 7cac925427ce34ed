"""The ONNX Runtime target: float32 as exported, or int8."""

from pathlib import Path

import onnx

from engine_build import graphs, quantisation
from engine_build.checkpoint import Checkpoint
from engine_build.options import BuildOptions, Stages
from engine_build.streaming_parameters import StreamingConfig
from runtime import hardware
from runtime.engine.manifest import ALIGNER_FILE, ENCODER_FILE, Manifest

PRECISIONS = {"fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "fp32"}  # requested: built
PACKAGES = ()
STREAMING_FRONT = ("linear.weight", "conv1.weight", "conv2.weight")
"""Weights of a streaming model's first stage: in int8 it has 3.6 points more word errors, as its authors found."""


def write(options: BuildOptions, weights: Checkpoint, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files. The aligner stays in float32, because it runs at most once per segment."""
    stages.begin("fill the graphs with the weights")
    models = graphs.models(weights, "fp32")
    streams = isinstance(weights.config, StreamingConfig)
    exact_sums = hardware.sums_int8_products_exactly()
    largest = quantisation.LARGEST_WEIGHT if exact_sums else quantisation.LARGEST_WEIGHT_WITHOUT_VNNI
    for name, model in models.items():
        if options.precision == "int8" and name != ALIGNER_FILE:
            stages.begin(f"quantise {name}")
            quantisation.quantise_products(model, largest, kept=STREAMING_FRONT if streams and name == ENCODER_FILE else ())
        onnx.save(model, directory / name)
    return built.model_copy(update={"needs_exact_int8_sums": options.precision == "int8" and exact_sums})


def check_machine() -> None:
    """Always pass: nothing is needed besides the packages."""


def is_current(options: BuildOptions, built: Manifest) -> bool:
    """True if the engine suits this processor."""
    return options.precision != "int8" or built.needs_exact_int8_sums == hardware.sums_int8_products_exactly()
