"""Builds a directory of engines from a Moonshine checkpoint: python engine_build/build.py --precision fp32

The checkpoint's weights are read with numpy and made into an engine for one target, with the networks' graphs in
engine_build/graphs or in the native engine's own layout. Only the torch target needs torch.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine_build import checkpoint
from engine_build import writing_systems as scripts
from engine_build.alignment_heads import alignment_heads
from engine_build.checkpoint import DEFAULT_MODEL, Checkpoint, CheckpointError
from engine_build.graphs import GraphsMissing
from engine_build.known_clip import known_tokens
from engine_build.options import BuildError, BuildOptions, Stages, UnsupportedModel
from engine_build.parameters import MAX_SECONDS
from engine_build.streaming_parameters import EXCLUSIVE, INCLUSIVE, StreamingConfig
from moonshine_client.command_line import Parser
from runtime import tokenizer
from runtime.engine import known_clip as clip
from runtime.engine import manifest, selection, tensorrt_package
from runtime.engine.manifest import ANY_BATCH, NATIVE, ONNXRUNTIME, TENSORRT, TORCH, Manifest, StreamEncoder
from runtime.exceptions import EngineDirectoryError
from runtime.languages import language_of
from runtime.scheduler import capacity
from runtime.version import DISTRIBUTION, version

PRECISIONS = ("fp32", "int8", "fp16", "bf16")
TARGET_MODULES = {target: f"engine_build.{target}_target" for target in selection.TARGETS}
PACKAGES = ("numpy", "onnx", "onnxruntime")
"""Packages that take part in every build."""
OTHER_SCRIPTS_SCALE = 2.0  # the authors' limit is 13 tokens a second for other scripts, and 6.5 for Latin ones


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    console = Console(stderr=True)
    try:
        directory = build(arguments, console)
    except (BuildError, CheckpointError) as exc:
        return failed(console, str(exc))
    except OSError as exc:
        return failed(
            console, f"{(exc.strerror or str(exc)).lower()}: {exc.filename or arguments.out}; --out names another directory"
        )
    except KeyboardInterrupt:
        return failed(console, "it was interrupted; nothing half made is left, and what was there before still is")
    print(directory)
    return 0


def failed(console: Console, reason: str) -> int:
    console.print(f"[red]build failed:[/] {escape(reason)}", highlight=False, soft_wrap=True)
    return 1


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and examples as they are written."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.max_batch < 1:
        parser.error(f"--max-batch {arguments.max_batch}: expected 1 or more")
    return arguments


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr build",
        "Builds the engines that the server runs: reads a checkpoint's weights, makes them into an engine for this "
        "machine, and writes it with a manifest.json to a directory below --out.",
        ("moonshine-asr build", "moonshine-asr build --model ./my-checkpoint --precision bf16"),
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="ID_OR_DIR",
        help="a Moonshine checkpoint: a hub id, or a directory with config.json, model.safetensors and "
        "tokenizer.json; where the default cannot be had, moonshine-cpp's weights are used",
    )
    parser.add_argument(
        "--revision",
        help="commit, tag or branch of the model's repository on the hub; default: what is in the "
        "local cache, else the newest; the manifest says which it was",
    )
    parser.add_argument("--weights-sha256", metavar="HEX", help="refuse weights with any other SHA-256")
    add_reading_options(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what to compute in; default: fp16 for a GPU, int8 for the native engine and for a processor with VNNI, else fp32. "
        "onnxruntime: fp16 and bf16 build fp32, int8 computes products in int8; native: no fp16; "
        "tensorrt: int8 is int8 weights in fp16 arithmetic; torch: no int8",
    )
    parser.add_argument(
        "--target",
        choices=("auto", *selection.TARGETS),
        default="auto",
        help="auto: tensorrt where a GPU and a TensorRT package are present, torch where there is a GPU and "
        "torch, native for int8 where the processor and a compiler allow, else onnxruntime",
    )
    parser.add_argument(
        "--flavour", choices=tuple(tensorrt_package.FLAVOURS), help="of TensorRT, where both are installed; default: whichever is"
    )
    parser.add_argument(
        "--out", type=Path, default=manifest.default_engines(), help="the engine's directory is made below this one"
    )
    parser.add_argument("--max-batch", type=int, default=32, help="most streams in one step")
    parser.add_argument("--cpu-threads", type=int, help="that the engine will have while serving; default: one for each core")
    parser.add_argument("--force", action="store_true", help="build even if an unchanged engine is there")
    return parser


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading a checkpoint."""
    parser.add_argument(
        "--script",
        choices=(scripts.LATIN, scripts.ANY),
        help="latin: never write letters of another script, as English checkpoints do where they understand "
        f"nothing; default: latin for {' and '.join(checkpoint.PACKAGES)}, any for others",
    )
    parser.add_argument(
        "--windows",
        choices=(EXCLUSIVE, INCLUSIVE),
        default=EXCLUSIVE,
        help="of a streaming model: how its configuration's windows are read. exclusive: as transformers does; inclusive: one "
        "frame more on each side, as Moonshine's own runtime does",
    )


def build(arguments: argparse.Namespace, console: Console) -> Path:
    """Build the requested engine and return its directory, which replaces an older one at once or not at all."""
    if arguments.target != "auto":
        return build_for(arguments.target, arguments, console)
    target, reason = selection.target_to_build(arguments.precision, arguments.flavour)
    console.print(f"building for {target}: {reason}", highlight=False, markup=False, soft_wrap=True)
    try:
        return build_for(target, arguments, console)
    except BuildError as exc:
        if target != NATIVE and not isinstance(exc, UnsupportedModel):
            raise
        other = ONNXRUNTIME if target == NATIVE else TORCH
        console.print(f"{exc}\nbuilding for {other} instead", highlight=False, markup=False, soft_wrap=True)
    return build_for(other, arguments, console)


def build_for(target: str, arguments: argparse.Namespace, console: Console) -> Path:
    try:
        target_module = importlib.import_module(TARGET_MODULES[target])
    except ModuleNotFoundError as exc:
        raise BuildError(f"the {target} target needs {exc.name}, which is not installed: {advice_for(target)}") from exc
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
        arguments.max_batch if target == TENSORRT else ANY_BATCH,
        arguments.flavour,
        arguments.force,
        arguments.revision,
        arguments.weights_sha256,
        arguments.script,
        arguments.cpu_threads,
        arguments.windows,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        return provide_engine(options, target_module, Stages(progress))


def advice_for(target: str) -> str:
    """Return the command or page that helps if a target's package is missing."""
    in_checkout = Path(__file__).resolve().parent.parent.joinpath("scripts", "install.sh").is_file()
    return f"bash scripts/install.sh{' --torch' if target == TORCH else ''}" if in_checkout else "see docs/operations.md"


def provide_engine(options: BuildOptions, target: ModuleType, stages: Stages) -> Path:
    """Return the engine's directory; builds it if it is not current."""
    directory = options.out / manifest.directory_name(options.model, options.target, options.precision)
    target.check_machine()  # before anything that takes long
    stages.begin(f"read the weights of {options.model}")
    weights = checkpoint.load(
        options.model, stages.say, options.revision, options.weights_sha256, options.script, options.windows
    )

    def is_wanted(built: Manifest) -> bool:
        asked = (weights.sha256, weights.script, builder_sha256(), options.max_batch)
        has = (built.weights_sha256, built.script, built.builder_sha256, built.max_batch)
        if isinstance(weights.config, StreamingConfig) and built.stream_encoder != stream_encoder_of(weights.config):
            return False
        return has == asked and target.is_current(options, built)

    if not options.force and is_current(directory, options, is_wanted):
        stages.say(f"{directory} is unchanged; nothing to build (--force builds all the same)")
        return directory

    def write(unfinished: Path) -> None:
        built = describe(options, weights, target.PACKAGES)
        stages.begin("transcribe the known clip in float32")
        built = built.model_copy(update={"known_tokens": tokens_to_know(weights, built, stages)})
        built = target.write(options, weights, built, unfinished, stages)
        tokenizer.save(weights.pieces, unfinished)
        if options.target in selection.CPU_TARGETS:
            stages.begin("measure how many live streams it carries here")
            built = built.model_copy(update={"live_streams": live_streams(unfinished, built, options.cpu_threads)})
        finish(unfinished, built, stages)

    return replace_directory(directory, write)


def tokens_to_know(weights: Checkpoint, built: Manifest, stages: Stages) -> tuple[int, ...]:
    """Return the tokens that the engine must give for the known clip; if they cannot be known, report that and return none."""
    try:
        found = known_tokens(weights, built)
    except GraphsMissing:
        if built.target != NATIVE:  # the other targets need the graphs
            raise
        found = ()
    if not found:
        stages.say("what this model says of the known clip is not known: its engine is not tried on it before it serves")
    return found


def live_streams(directory: Path, built: Manifest, threads: int | None) -> int:
    choice = selection.Choice(directory, built.model, built.target, built.precision, remark=None)
    engine = selection.open_target(choice, built, max_batch=capacity.ROWS, threads=threads, max_seconds=None)
    try:
        return capacity.live_streams(engine)
    finally:
        engine.close()


def is_current(directory: Path, options: BuildOptions, is_wanted: Callable[[Manifest], bool]) -> bool:
    """True if there is an undamaged directory of the requested engine that is_wanted() accepts."""
    try:
        return is_wanted(manifest.load(directory, options.model, options.target, options.precision, max_batch=0))
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
    """Write the manifest of the files in the directory."""
    stages.begin("write the manifest")
    files = {path.name: manifest.describe_file(path) for path in sorted(directory.iterdir())}
    built.model_copy(update={"files": files}).save(directory)
    stages.end()


def builder_sha256() -> str:
    here = Path(__file__).parent
    sources = (*here.glob("*.py"), *here.glob("native/*"), *here.glob("graphs/**/*.gz"), *here.glob("graphs/*.py"))
    return checkpoint.sha256_of(*sorted(path for path in sources if path.is_file()), clip.RECORDING)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe(options: BuildOptions, weights: Checkpoint, packages: Iterable[str]) -> Manifest:
    """Return the manifest of an engine, without its files and the known clip's tokens."""
    config = weights.config
    return Manifest(
        model=options.model,
        weights_source=weights.source,
        weights_sha256=weights.sha256,
        script=weights.script,
        target=options.target,
        precision=options.precision,
        builder_sha256=builder_sha256(),
        max_batch=options.max_batch,
        max_seconds=config.max_seconds if isinstance(config, StreamingConfig) else MAX_SECONDS,
        stream_encoder=stream_encoder_of(config) if isinstance(config, StreamingConfig) else None,
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
        token_scale=1.0 if language_of(options.model).is_latin else OTHER_SCRIPTS_SCALE,
        files={},
        versions={"python": platform.python_version()} | versions_of({*PACKAGES, *packages}) | {DISTRIBUTION: version()},
        built_at=utc_now(),
    )


def stream_encoder_of(config: StreamingConfig) -> StreamEncoder:
    return StreamEncoder(
        dim=config.encoder_dim,
        heads=config.encoder_heads,
        head_dim=config.encoder_head_dim,
        windows=config.windows,
        state_size=config.state_size,
    )


if __name__ == "__main__":
    sys.exit(main())
