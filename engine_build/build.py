"""Builds a directory of engines from a Moonshine checkpoint: python engine_build/build.py --precision fp32

Two steps, each kept in a directory of its own and not repeated while nothing has changed: the model is exported to ONNX in one
precision (needs torch), and the export is made into an engine for one target (needs that target's package, not torch).
"""

import argparse
import contextlib
import datetime
import functools
import importlib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine_build import checkpoint, scripts
from engine_build.alignment_heads import alignment_heads
from engine_build.checkpoint import DEFAULT_MODEL, Checkpoint, CheckpointError
from engine_build.options import BuildError, BuildOptions, Stages
from runtime import tokenizer
from runtime.engine import known_clip, manifest, selection, tensorrt_package
from runtime.engine.manifest import EXPORT, NATIVE, ONNXRUNTIME, TORCH, Manifest
from runtime.exceptions import EngineDirectoryError

PRECISIONS = ("fp32", "int8", "fp16", "bf16")
TARGET_MODULES = {target: f"engine_build.{target}_target" for target in selection.TARGETS}
EXPORTERS = {EXPORT: "engine_build.export", TORCH: "engine_build.torch_target"}
ANY_BATCH = 1024  # an export has no batch size of its own
MAX_SECONDS = 29.0  # the decoder's 194 positions, at 6.5 tokens a second, end shortly behind this
# They decide what an export is.
EXPORTER_SOURCES = (
    "alignment_heads", "checkpoint", "export", "known_clip", "model", "ort_weights", "packed_encoder", "scripts", "torch_target",
    "verification",
)  # fmt: skip
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


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
        "PyTorch, makes them into an engine, and writes it with a manifest.json to a directory below --out.",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="ID_OR_DIR",
                        help="a Moonshine checkpoint: a hub id, or a directory with config.json, model.safetensors and "
                        "tokenizer.json; where the default cannot be had, moonshine-cpp's weights are used")  # fmt: skip
    parser.add_argument("--revision", help="commit, tag or branch of the model's repository on the hub; default: what is in the "
                        "local cache, else the newest; the manifest says which it was")  # fmt: skip
    parser.add_argument("--weights-sha256", metavar="HEX", help="refuse weights with any other SHA-256")
    parser.add_argument("--script", choices=(scripts.LATIN, scripts.ANY),
                        help="latin: never write letters of another script, as English checkpoints do where they understand "
                        f"nothing; default: latin for {' and '.join(checkpoint.PACKAGES)}, any for others")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS,
                        help="what to compute in; default: fp16 for a GPU, int8 for a processor with VNNI, else fp32. "
                        "onnxruntime: fp16 and bf16 build fp32, int8 computes products in int8; native: no fp16; "
                        "tensorrt: int8 is int8 weights in fp16 arithmetic; torch: no int8")  # fmt: skip
    parser.add_argument("--target", choices=("auto", *selection.TARGETS), default="auto",
                        help="auto: tensorrt where a GPU and a TensorRT package are present, torch where there is a GPU and "
                        "torch, native for int8 where the processor and a compiler allow, else onnxruntime")  # fmt: skip
    parser.add_argument("--flavour", choices=tuple(tensorrt_package.FLAVOURS),
                        help="of TensorRT, where both are installed; default: whichever is")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("engines"), help="the engine's directory is made below this one")
    parser.add_argument("--max-batch", type=int, default=32, help="most streams in one step")
    parser.add_argument("--export-only", action="store_true", help="stop at the ONNX: what a machine without torch needs")
    parser.add_argument("--force", action="store_true", help="build even if an unchanged engine is there")
    arguments = parser.parse_args(argv)
    if arguments.max_batch < 1:
        parser.error(f"--max-batch {arguments.max_batch}: expected 1 or more")
    return arguments


def build(arguments: argparse.Namespace, console: Console) -> Path:
    """Build as asked; the finished directory replaces an older one at once or not at all. Returns it."""
    if arguments.target != "auto":
        return build_for(arguments.target, arguments, console)
    target, reason = selection.target_to_build(arguments.precision, arguments.flavour)
    console.print(f"building for {target}: {reason}", highlight=False, soft_wrap=True)
    try:
        return build_for(target, arguments, console)
    except BuildError as exc:
        if target != NATIVE:
            raise
        console.print(f"{exc}\nbuilding for {ONNXRUNTIME} instead", highlight=False, soft_wrap=True)
    return build_for(ONNXRUNTIME, arguments, console)


def build_for(target: str, arguments: argparse.Namespace, console: Console) -> Path:
    target_module = importlib.import_module(TARGET_MODULES[target])
    asked = arguments.precision or selection.default_precision(target)
    if asked not in target_module.PRECISIONS:
        raise BuildError(f"the {target} target does not compute {asked}; it has {', '.join(target_module.PRECISIONS)}")
    precision = target_module.PRECISIONS[asked]
    if precision != asked:
        console.print(f"the {target} target computes {asked} in {precision}: building {precision}", highlight=False)
    options = BuildOptions(
        arguments.model,
        target,
        precision,
        arguments.out,
        arguments.max_batch,
        arguments.flavour,
        arguments.force,
        arguments.revision,
        arguments.weights_sha256,
        arguments.script,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        stages = Stages(progress)
        if target == TORCH:
            return provide_export(options, TORCH, precision, stages)
        if arguments.export_only:
            return provide_export(options, EXPORT, target_module.EXPORTS[precision], stages)
        return provide_engine(options, target_module, stages)


def provide_engine(options: BuildOptions, target: ModuleType, stages: Stages) -> Path:
    """The engine's directory, built where it is not current."""
    directory = options.out / manifest.directory_name(options.model, options.target, options.precision)
    if not is_current(directory, options, options.target, options.precision, functools.partial(target.is_current, options)):
        target.check_machine()  # before anything that takes long
    exported = provide_export(options, EXPORT, target.EXPORTS[options.precision], stages)
    export = Manifest.model_validate_json((exported / manifest.FILE_NAME).read_bytes())

    def is_wanted(built: Manifest) -> bool:
        asked = (export.weights_sha256, export.script, builder_sha256(), options.max_batch)
        has = (built.weights_sha256, built.script, built.builder_sha256, built.max_batch)
        return has == asked and target.is_current(options, built)

    if not options.force and is_current(directory, options, options.target, options.precision, is_wanted):
        stages.say(f"{directory} is unchanged; nothing to build (--force builds all the same)")
        return directory

    def write(unfinished: Path) -> None:
        built = export.model_copy(update={
            "target": options.target, "precision": options.precision, "max_batch": options.max_batch,
            "builder_sha256": builder_sha256(), "versions": export.versions | versions_of(target.PACKAGES), "built_at": utc_now(),
        })  # fmt: skip
        built = target.write(options, exported, built, unfinished, stages)
        shutil.copyfile(exported / tokenizer.FILE_NAME, unfinished / tokenizer.FILE_NAME)
        finish(unfinished, built, stages)

    return replace_directory(directory, write)


def provide_export(options: BuildOptions, form: str, precision: str, stages: Stages) -> Path:
    """The directory with the exported model in `precision`, as ONNX or as torch programs, exported where it is not current.

    Where the weights cannot be had an export of this builder is as good: that is all a machine without torch has.
    """
    directory = options.out / manifest.directory_name(options.model, form, precision)
    stages.begin(f"load the weights of {options.model}")
    try:
        with needed_packages():
            weights = checkpoint.load(options.model, stages.say, options.revision, options.weights_sha256, options.script)
    except (CheckpointError, BuildError):
        if is_current(directory, options, form, precision, lambda built: is_as_good(built, options)):
            stages.say(f"the weights cannot be had here; using the export in {directory}")
            return directory
        raise

    def is_wanted(built: Manifest) -> bool:
        asked = (weights.sha256, weights.script, exporter_sha256())
        return (built.weights_sha256, built.script, built.builder_sha256) == asked

    if not options.force and is_current(directory, options, form, precision, is_wanted):
        return directory

    def write(unfinished: Path) -> None:
        stages.begin("import torch")
        with needed_packages():
            exporter = importlib.import_module(EXPORTERS[form])
        exporter.export(weights, precision, unfinished, MAX_SECONDS, stages)
        tokenizer.save(weights.pieces, unfinished)
        stages.begin("hear the known clip")
        known_tokens = importlib.import_module("engine_build.known_clip").known_tokens(weights, MAX_SECONDS)
        finish(unfinished, describe(weights, form, precision, known_tokens), stages)

    return replace_directory(directory, write)


def is_as_good(built: Manifest, options: BuildOptions) -> bool:
    """Was the export made by this builder, from the weights that are asked for?"""
    script = options.script or checkpoint.script_of(options.model)
    return (built.builder_sha256, built.script) == (exporter_sha256(), script) and (
        options.weights_sha256 in (None, built.weights_sha256)
    )


@contextlib.contextmanager
def needed_packages() -> Iterator[None]:
    """Raises BuildError for a package that is not there."""
    try:
        yield
    except ModuleNotFoundError as exc:
        advice = "bash scripts/install.sh in a checkout, else pip install 'moonshine-asr[build]'"
        raise BuildError(f"exporting the model needs {exc.name}: {advice}") from exc


def is_current(
    directory: Path, options: BuildOptions, target: str, precision: str, is_wanted: Callable[[Manifest], bool]
) -> bool:
    """Is there a sound directory, and is what it was built from what is asked for?"""
    try:
        return is_wanted(manifest.load(directory, options.model, target, precision, max_batch=0))
    except EngineDirectoryError:
        return False


def replace_directory(directory: Path, write: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".building-") as unfinished:
        write(Path(unfinished))
        shutil.rmtree(directory, ignore_errors=True)
        Path(unfinished).rename(directory)
        Path(unfinished).mkdir()  # for TemporaryDirectory to remove
    directory.chmod(0o755)
    return directory


def finish(directory: Path, built: Manifest, stages: Stages) -> None:
    """Write the manifest of what lies in the directory."""
    stages.begin("write the manifest")
    files = {path.name: manifest.describe_file(path) for path in sorted(directory.iterdir())}
    built.model_copy(update={"files": files}).save(directory)
    stages.end()


def exporter_sha256() -> str:
    sources = (Path(__file__).with_name(f"{name}.py") for name in EXPORTER_SOURCES)
    return checkpoint.sha256_of(*sources, known_clip.RECORDING, Path(known_clip.__file__))


def builder_sha256() -> str:
    here = Path(__file__).parent
    return checkpoint.sha256_of(*sorted(here.glob("*.py")), *sorted(here.glob("native/*")))


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe(weights: Checkpoint, form: str, precision: str, known_tokens: tuple[int, ...]) -> Manifest:
    """The manifest of an export, without its files."""
    config = weights.config
    return Manifest(
        model=weights.model,
        weights_source=weights.source,
        weights_sha256=weights.sha256,
        script=weights.script,
        target=form,
        precision=precision,
        builder_sha256=exporter_sha256(),
        max_batch=ANY_BATCH,
        max_seconds=MAX_SECONDS,
        dim=config.dim,
        heads=config.heads,
        head_dim=config.head_dim,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        aligner_layers=alignment_heads(config).layers,
        vocabulary=config.vocabulary,
        max_positions=config.max_positions,
        start_token=config.start_token,
        end_token=config.end_token,
        known_tokens=known_tokens,
        files={},
        versions={"python": platform.python_version()} | versions_of(EXPORT_PACKAGES),
        built_at=utc_now(),
    )


if __name__ == "__main__":
    sys.exit(main())
