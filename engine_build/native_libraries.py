"""The native engine's libraries, one for each level of x86-64 instructions.

They do not depend on a model's weights. A wheel contains them compiled; in a checkout, a C++ compiler compiles them.
`python -m engine_build.native_libraries` compiles them into the package, for scripts/release.sh and the image.
"""

import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine_build import checkpoint
from engine_build.options import BuildError, Stages
from runtime import hardware
from runtime.engine.manifest import COMPILED_LIBRARIES, NATIVE_FLAGS

SOURCES = Path(__file__).with_name("native")
STORE = ".libraries"  # folder beside the engines
SUM_FILE = "sources.sha256"  # checksum of the sources of the libraries beside it
# Products and sums are contracted only where the code says so: a row must not depend on how many the compiler computes together.
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-pthread", "-s")
STATIC = ("-static-libgcc", "-static-libstdc++")  # then the library runs without a compiler installed; some systems lack these


@dataclass(frozen=True)
class Level:
    """Instructions that the library is compiled for."""

    name: str
    options: tuple[str, ...]
    """Options of the compiler."""
    flags: tuple[str, ...]
    """Instructions that the library uses, by the names of /proc/cpuinfo."""

    @property
    def library(self) -> str:
        """The file's name."""
        return f"engine.{self.name}.so"


AVX512 = (*NATIVE_FLAGS, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
LEVELS = tuple(
    Level(name, tuple(f"-m{flag.replace('_', '')}" for flag in flags), flags)
    for name, flags in (
        ("avx512-bf16", (*AVX512, "avx512_bf16")),
        ("avx512-vnni", AVX512),
        ("avx-vnni", (*NATIVE_FLAGS, "avx_vnni")),
        ("avx2", NATIVE_FLAGS),
    )
)
LEAST = LEVELS[-1]
ONLY_FOR = {"avx512_bf16": ("bf16", "int8"), "avx_vnni": ("int8",)}  # instructions that help only some precisions


def provide(directory: Path, precision: str, stages: Stages) -> tuple[list[Level], str]:
    """Put the libraries for a precision into a directory: those of the package, else newly compiled ones.

    Returns their levels, the fastest first, and their origin. Raises BuildError if there is no compiler, or if it fails.
    """
    if not are_compiled():
        return provide_compiled(directory, precision, stages)
    levels = [level for level in levels_for(precision) if path_of(precision, level).is_file()]
    for level in levels:
        shutil.copyfile(path_of(precision, level), directory / level.library)
    return levels, "as the package has them"


def provide_compiled(directory: Path, precision: str, stages: Stages) -> tuple[list[Level], str]:
    """Compile the libraries that are not stored beside the engines yet; they are kept there for the next engine."""
    compiler = run(*find_compiler(), "--version").splitlines()[0]
    made_of = hashlib.sha256(f"{sources_sha256()} {compiler}".encode()).hexdigest()[:16]
    store = directory.parent / STORE / f"{caches_of(precision)}-{made_of}"
    for outdated in store.parent.glob(f"{caches_of(precision)}-*"):
        if outdated != store:
            shutil.rmtree(outdated, ignore_errors=True)
    store.mkdir(parents=True, exist_ok=True)
    missing = tuple(level for level in levels_for(precision) if not (store / level.library).is_file())
    if missing:
        compile_libraries(store, precision, missing, stages)
    levels = [level for level in levels_for(precision) if (store / level.library).is_file()]
    for level in levels:
        shutil.copyfile(store / level.library, directory / level.library)
    return levels, compiler


def check() -> None:
    """Raises BuildError if there are neither libraries nor a compiler."""
    if not are_compiled():
        find_compiler()


def are_compiled() -> bool:
    """True if the package has libraries that were compiled from its own sources."""
    mark = COMPILED_LIBRARIES / SUM_FILE
    return mark.is_file() and mark.read_text().strip() == sources_sha256()


def sources_sha256() -> str:
    return checkpoint.sha256_of(*sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.cpp")))


def path_of(precision: str, level: Level) -> Path:
    return COMPILED_LIBRARIES / caches_of(precision) / level.library


def caches_of(precision: str) -> str:
    """Return the type of the keys and values that slots keep."""
    return "float32" if precision == "fp32" else "float16"


def levels_for(precision: str) -> tuple[Level, ...]:
    """Return the levels whose instructions help a precision."""
    return tuple(level for level in LEVELS if precision in ONLY_FOR.get(level.flags[-1], (precision,)))


def options_for(level: Level) -> tuple[str, ...]:
    return (*OPTIONS, *level.options)


def compile_libraries(directory: Path, precision: str, levels: tuple[Level, ...], stages: Stages) -> list[Level]:
    """Compile for the levels and return those that the compiler supports. An old one may support only the lowest. Raises
    BuildError if it supports none."""
    done = []
    stages.begin(f"compile the engine for {', '.join(level.name for level in levels)}")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = {level: pool.submit(compile_library, directory / level.library, precision, level) for level in levels}
        for level, compiled in compiling.items():
            try:
                compiled.result()
                done.append(level)
            except BuildError as exc:
                if level == LEAST:
                    raise
                stages.say(f"left out {level.name}: {exc}")
    return done


def compile_library(path: Path, precision: str, level: Level = LEAST) -> None:
    """Compile one library. Raises BuildError with the compiler's first error."""
    compiler = find_compiler()
    half = ("-DMOONSHINE_HALF",) if caches_of(precision) == "float16" else ()
    unfinished = path.with_suffix(f".{os.getpid()}")
    command = (*compiler, *options_for(level), *half, "-o", str(unfinished), str(SOURCES / "engine.cpp"))
    try:
        run(*command, *STATIC)
    except BuildError:
        run(*command)
    unfinished.rename(path)


def find_compiler() -> list[str]:
    """Return the compiler's command. Raises BuildError if there is none."""
    found = hardware.find_compiler()
    if not found:
        raise BuildError("the native target needs a C++ compiler, which is not here; install g++, or use --target onnxruntime")
    return found


def run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise BuildError(f"the compiler cannot be run: {exc}") from exc
    if done.returncode:
        lines = done.stderr.splitlines() or [f"it ended with {done.returncode}"]
        first = next((line for line in lines if "error" in line or "cannot find" in line), lines[0])
        raise BuildError(f"{command[0]} cannot compile the native engine: {first}; --target onnxruntime needs no compiler")
    return done.stdout


def main() -> None:
    shutil.rmtree(COMPILED_LIBRARIES, ignore_errors=True)
    for precision in ("fp32", "int8"):  # int8 has every level
        directory = COMPILED_LIBRARIES / caches_of(precision)
        directory.mkdir(parents=True)
        for level in compile_libraries(directory, precision, levels_for(precision), Stages.silent()):
            path = directory / level.library
            print(path.relative_to(COMPILED_LIBRARIES), path.stat().st_size)
    (COMPILED_LIBRARIES / SUM_FILE).write_text(sources_sha256() + "\n")


if __name__ == "__main__":
    try:
        main()
    except BuildError as exc:
        sys.exit(str(exc))
