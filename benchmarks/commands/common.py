"""Code that all benchmark commands share: the console, the precisions and the lines of results."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, speech_sets
from runtime import hardware
from runtime.engine import selection

console = Console(width=220)

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_PRECISION = "fp16" if hardware.find_gpu() else "fp32"


def described(benchmark: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the first fields of each result's line: the benchmark, the machine and the options."""
    return {"benchmark": benchmark, "machine": machine.describe(), "settings": settings_of(arguments)}


def settings_of(arguments: argparse.Namespace) -> dict:
    """Return the options, ready for JSON."""
    left_out = ("command", "out", "plot", "compare", "engines", "speech", "turn_model", "before")
    return {name: value for name, value in vars(arguments).items() if name not in left_out}


def write_line(path: Path | None, result: dict) -> None:
    """Append one JSON line to the file, or print it."""
    line = json.dumps(result)
    if path is None:
        print(line)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def add_speech_options(command: argparse.ArgumentParser) -> None:
    """Add the options of commands that need sets of real recordings."""
    command.add_argument("--speech", type=Path, required=True, metavar="DIR", help="sets of real recordings")
    command.add_argument("--half", choices=speech_sets.HALVES, help="even or odd clips of each set only")
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", choices=PRECISIONS, default="int8")
