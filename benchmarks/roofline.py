"""Compares the native engine's products with this processor's peak: runs roofline.cpp, compiled for its best level."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine_build import native_libraries
from runtime import hardware

SOURCE = Path(__file__).with_suffix(".cpp")


@dataclass(frozen=True)
class Product:
    """One product of Moonshine Base, on one thread."""

    name: str
    kind: str
    """Type of its numbers."""
    milliseconds: float
    billions_a_second: float
    """Multiplications per second."""
    peak_billions_a_second: float
    """Multiplications per second when the unit's instruction is repeated, measured in the same run."""

    @property
    def share(self) -> float:
        return self.billions_a_second / self.peak_billions_a_second


def best_level() -> native_libraries.Level:
    """Return this processor's best level. Raises BuildError if it does not have even the lowest."""
    found = next((level for level in native_libraries.LEVELS if hardware.has_flags(level.flags)), None)
    if found is None:
        raise native_libraries.BuildError(f"the native engine needs a processor with {', '.join(native_libraries.LEAST.flags)}")
    return found


def run(level: native_libraries.Level) -> Iterator[Product]:
    """Yield each product as soon as it is measured. Raises BuildError if there is no compiler."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "roofline"
        options = [each for each in native_libraries.options_for(level) if each not in ("-shared", "-fPIC")]
        native_libraries.run(
            *native_libraries.find_compiler(), *options, f"-I{native_libraries.SOURCES}", "-o", str(program), str(SOURCE)
        )
        with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None, "it was asked for"
            for line in process.stdout:
                yield Product(**json.loads(line))
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}")
