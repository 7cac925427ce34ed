"""What stops the server at start: one line each, and it says what to do."""

import os
import shutil
import subprocess
import sys

import pytest

from runtime import hardware
from runtime.engine.manifest import FORMAT
from tests.conftest import ENGINES, PROJECT


def start(**variables: str) -> tuple[int, str]:
    """Exit status and the error output of a server that does not come up."""
    environment = os.environ | {"ASR_HOST": "127.0.0.1", "ASR_ENGINE_DIR": str(ENGINES)} | variables
    done = subprocess.run(
        [sys.executable, "-m", "server"], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.strip()


def test_a_setting_that_cannot_be_used_stops_the_start_with_one_line():
    status, line = start(ASR_PORT="eighty")
    assert status == 2 and line.startswith("ASR_PORT='eighty'") and "\n" not in line


@pytest.fixture
def copied(built, tmp_path):
    """The float32 engine in a directory of its own, to be spoilt."""
    shutil.copytree(built("fp32"), tmp_path / built("fp32").name)
    return tmp_path / built("fp32").name


def spoil_manifest(directory, old: str, new: str) -> None:
    path = directory / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def flip_a_byte(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


SPOILERS = {
    "no engine": (lambda d: shutil.rmtree(d), "no engine in"),
    "damaged manifest": (lambda d: (d / "manifest.json").write_text("{"), "is damaged"),
    "another model": (lambda d: spoil_manifest(d, '"UsefulSensors/moonshine-base"', '"another/model"'), "built for model"),
    "another precision": (lambda d: spoil_manifest(d, '"fp32"', '"int8"'), "built for precision"),
    "smaller batch": (lambda d: spoil_manifest(d, '"max_batch": 32', '"max_batch": 4'), "batches up to 4, not 32"),
    "older format": (lambda d: spoil_manifest(d, f'"format": {FORMAT}', '"format": 0'), "has format 0"),
    "missing file": (lambda d: (d / "encoder.onnx").unlink(), "encoder.onnx is missing or damaged"),
    "truncated file": (lambda d: os.truncate(d / "decoder.onnx", 1_000_000), "decoder.onnx is missing or damaged"),
    "one bit": (lambda d: flip_a_byte(d / "encoder.onnx"), "encoder.onnx is missing or damaged"),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_an_engine_that_does_not_fit_is_refused_with_what_to_run(copied, name):
    spoil, complaint = SPOILERS[name]
    spoil(copied)
    status, line = start(ASR_ENGINE_DIR=str(copied.parent))
    assert status == 3 and complaint in line and "\n" not in line
    assert "python engine_build/build.py --model UsefulSensors/moonshine-base" in line


@pytest.mark.skipif(hardware.find_gpu() is not None, reason="there is a GPU, so nothing is missing")
def test_a_gpu_engine_without_a_gpu_stops_the_start_with_one_line(built):
    built("fp16", "tensorrt", "--max-batch", "32", "--flavour", "tensorrt-rtx")
    status, line = start(ASR_TARGET="tensorrt", MOONSHINE_PRECISION="fp16")
    assert status == 3 and "needs an NVIDIA GPU" in line and "ASR_TARGET=onnxruntime" in line and "\n" not in line
