"""Builds a directory of engines from a Moonshine checkpoint: python engine_build/build.py --precision fp32"""

import argparse
import datetime
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine_build import checkpoint, onnxruntime_target
from engine_build.checkpoint import DEFAULT_MODEL, Checkpoint, CheckpointError
from runtime import manifest, tokenizer
from runtime.audio import count_frames
from runtime.exceptions import EngineDirectoryError
from runtime.manifest import Manifest
from runtime.onnx_engine import DECODER_FILE, ENCODER_FILE, TARGET

PRECISIONS = ("fp32", "int8", "fp16", "bf16")
MAX_SECONDS = 29.0  # the decoder's 194 positions, at 6.5 tokens a second, end shortly behind this
VERSIONED_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
LARGEST_DIFFERENCE = 1e-3  # between the float32 export and the PyTorch model, of keys, values and log-probabilities


class BuildError(Exception):
    """The build cannot be done, or what was built is not what it should be."""


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    console = Console(stderr=True)
    try:
        directory = build(arguments, console)
    except (BuildError, CheckpointError) as exc:
        console.print(f"[red]build failed:[/] {exc}", highlight=False, soft_wrap=True)
        return 1
    print(directory)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="engine_build/build.py",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Builds the engines that the server runs: exports Moonshine's encoder and decoder, checks them against "
        "PyTorch, and writes them with a manifest.json to a directory below --out.",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="ID_OR_DIR",
                        help="a Moonshine checkpoint: a hub id, or a directory with config.json, model.safetensors and "
                        "tokenizer.json; where the default cannot be had, moonshine-cpp's weights are used")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32",
                        help="what to compute in; on the onnxruntime target int8 means a decoder with int8 weights, and "
                        "fp16 and bf16 build fp32")  # fmt: skip
    parser.add_argument("--target", choices=("auto", TARGET), default="auto", help="auto: onnxruntime")
    parser.add_argument("--out", type=Path, default=Path("engines"), help="the engine's directory is made below this one")
    parser.add_argument("--max-batch", type=int, default=32, help="most streams in one step")
    parser.add_argument("--force", action="store_true", help="build even if an unchanged engine is there")
    arguments = parser.parse_args(argv)
    if arguments.max_batch < 1:
        parser.error(f"--max-batch {arguments.max_batch}: expected 1 or more")
    return arguments


def build(arguments: argparse.Namespace, console: Console) -> Path:
    """Build as asked; the finished directory replaces an older one at once or not at all. Returns it."""
    precision = onnxruntime_target.PRECISIONS[arguments.precision]
    if precision != arguments.precision:
        console.print(f"the {TARGET} target computes {arguments.precision} in {precision}: building {precision}", highlight=False)
    directory = arguments.out / manifest.directory_name(arguments.model, TARGET, precision)
    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(dir=arguments.out, prefix=".building-") as unfinished,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        stages = Stages(progress)
        stages.begin(f"load the weights of {arguments.model}")
        weights = checkpoint.load(arguments.model, say=stages.say)
        if not arguments.force and is_current(directory, weights, precision, arguments.max_batch):
            stages.say(f"{directory} is unchanged; nothing to build (--force builds all the same)")
            return directory
        write_engine(Path(unfinished), weights, precision, arguments.max_batch, stages)
        shutil.rmtree(directory, ignore_errors=True)
        Path(unfinished).rename(directory)
        Path(unfinished).mkdir()  # for TemporaryDirectory to remove
    directory.chmod(0o755)
    return directory


class Stages:
    """One line for each stage of the build, with its time. On a terminal the line moves; in a log it is printed once."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._task = None

    def begin(self, description: str) -> None:
        self.end()
        if not self._progress.console.is_terminal:
            self.say(description)
        self._task = self._progress.add_task(description, total=1)

    def end(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1)

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, soft_wrap=True)


def is_current(directory: Path, weights: Checkpoint, precision: str, max_batch: int) -> bool:
    """Is there a sound engine that this builder made of these weights for the same request?"""
    try:
        built = manifest.load(directory, weights.model, TARGET, precision, max_batch)
    except EngineDirectoryError:
        return False
    asked = (weights.sha256, builder_sha256(), max_batch)
    return (built.weights_sha256, built.builder_sha256, built.max_batch) == asked


def builder_sha256() -> str:
    return checkpoint.sha256_of(*sorted(Path(__file__).parent.glob("*.py")))


def write_engine(directory: Path, weights: Checkpoint, precision: str, max_batch: int, stages: Stages) -> None:
    stages.begin("import torch")
    from engine_build import export, verification
    from engine_build.model import build_modules

    try:
        encoder, decoder = build_modules(weights.config, weights.tensors, max_frames=count_frames(int(MAX_SECONDS * 16_000)))
    except (KeyError, RuntimeError) as exc:
        raise CheckpointError(f"the weights of {weights.model} do not fit its configuration: {exc}") from exc
    stages.begin("export the encoder")
    export.export_encoder(encoder, directory / ENCODER_FILE)
    stages.begin("export the decoder")
    export.export_decoder(decoder, weights.config, directory / DECODER_FILE)
    stages.begin("check the export against PyTorch")
    difference = verification.largest_difference(encoder, decoder, directory / ENCODER_FILE, directory / DECODER_FILE)
    if difference > LARGEST_DIFFERENCE:
        raise BuildError(f"the export differs from PyTorch by {difference:.2g}; at most {LARGEST_DIFFERENCE} was expected")
    if precision == "int8":
        stages.begin("quantise the decoder")
        onnxruntime_target.quantise_decoder(directory / DECODER_FILE)
    stages.begin("write the manifest")
    tokenizer.save(weights.pieces, directory)
    describe(directory, weights, precision, max_batch).save(directory)
    stages.end()


def describe(directory: Path, weights: Checkpoint, precision: str, max_batch: int) -> Manifest:
    config = weights.config
    names = (ENCODER_FILE, DECODER_FILE, tokenizer.FILE_NAME)
    return Manifest(
        model=weights.model,
        weights_source=weights.source,
        weights_sha256=weights.sha256,
        target=TARGET,
        precision=precision,
        builder_sha256=builder_sha256(),
        max_batch=max_batch,
        max_seconds=MAX_SECONDS,
        dim=config.dim,
        heads=config.heads,
        head_dim=config.head_dim,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        vocabulary=config.vocabulary,
        max_positions=config.max_positions,
        start_token=config.start_token,
        end_token=config.end_token,
        files={name: manifest.describe_file(directory / name) for name in names},
        versions={"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in VERSIONED_PACKAGES},
        built_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


if __name__ == "__main__":
    sys.exit(main())
