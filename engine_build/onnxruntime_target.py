"""For ONNX Runtime: float32 as exported, or int8."""

import contextlib
import os
import shutil
from pathlib import Path

from engine_build import quantisation
from engine_build.options import BuildOptions, Stages
from runtime import hardware
from runtime.engine.manifest import ALIGNER_FILE, DECODER_FILE, ENCODER_FILE, Manifest

PRECISIONS = {"fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "fp32"}  # asked for: built
EXPORTS = {"fp32": "fp32", "int8": "fp32"}  # built: the export it is made from
PACKAGES = ("onnxruntime",)


def write(options: BuildOptions, exported: Path, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files. The aligner, run once for a segment at most, stays in float32."""
    link(exported / ALIGNER_FILE, directory / ALIGNER_FILE)
    if options.precision != "int8":
        link(exported / ENCODER_FILE, directory / ENCODER_FILE)
        link(exported / DECODER_FILE, directory / DECODER_FILE)
        return built
    exact_sums = hardware.sums_int8_products_exactly()
    largest = quantisation.LARGEST_WEIGHT if exact_sums else quantisation.LARGEST_WEIGHT_WITHOUT_VNNI
    for name in (ENCODER_FILE, DECODER_FILE):
        stages.begin(f"quantise {name}")
        quantisation.quantise_products(exported / name, directory / name, largest)
    return built.model_copy(update={"needs_exact_int8_sums": exact_sums})


def check_machine() -> None:
    """Nothing is needed that the packages do not bring."""


def is_current(options: BuildOptions, built: Manifest) -> bool:
    """Does the engine suit this processor?"""
    return options.precision != "int8" or built.needs_exact_int8_sums == hardware.sums_int8_products_exactly()


def link(source: Path, path: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    with contextlib.suppress(OSError):
        os.link(source, path)
        return
    shutil.copyfile(source, path)
