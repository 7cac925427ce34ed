"""Engines for benchmarks, built if they are not built yet."""

from pathlib import Path

from engine_build import build
from runtime.engine import manifest, selection
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer


def open_built(
    model: str, target: str, precision: str, out: Path, max_batch: int, *options: str, max_streams: int = 0
) -> tuple[Engine, Tokenizer, Manifest]:
    """Build an engine and open it. options: options of the build; max_batch, max_streams: see selection.open_engine().

    Raises RuntimeError if it cannot be built.
    """
    arguments = ["--model", model, "--target", target, "--precision", precision, "--out", str(out), *options]
    if build.main(arguments):
        raise RuntimeError(f"{model} cannot be built for {target}")
    running = selection.running_precision(target, precision)
    choice = selection.Choice(out / manifest.directory_name(model, target, running), model, target, running, remark=None)
    return selection.open_engine(choice, max_batch, max_streams=max_streams)
