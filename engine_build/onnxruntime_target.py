"""For ONNX Runtime: float32 as exported, or with an int8 decoder."""

import contextlib
import os
import shutil
from pathlib import Path

from engine_build import quantisation
from engine_build.request import Request, Stages
from runtime.manifest import ALIGNER_FILE, DECODER_FILE, ENCODER_FILE, Manifest

PRECISIONS = {"fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "fp32"}  # asked for: built
EXPORTS = {"fp32": "fp32", "int8": "fp32"}  # built: the export it is made from
PACKAGES = ("onnxruntime",)


def write(request: Request, exported: Path, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files; the encoder stays float32 in int8 too (its int8 forms couple rows or gain nothing)."""
    link(exported / ENCODER_FILE, directory / ENCODER_FILE)
    link(exported / ALIGNER_FILE, directory / ALIGNER_FILE)
    if request.precision == "int8":
        stages.begin("quantise the decoder")
        quantisation.quantise_products(exported / DECODER_FILE, directory / DECODER_FILE)
    else:
        link(exported / DECODER_FILE, directory / DECODER_FILE)
    return built


def is_current(request: Request, built: Manifest) -> bool:
    """Nothing of this machine is in the engine."""
    return True


def link(source: Path, path: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    with contextlib.suppress(OSError):
        os.link(source, path)
        return
    shutil.copyfile(source, path)
