"""Engines with the real weights, built once for all tests, and servers that run them."""

import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import hypothesis
import numpy as np
import pytest

from benchmarks.accuracy import evaluation_clips, samples
from engine_build import build
from moonshine_client import audio_file
from runtime.engine import manifest, selection
from runtime.engine.device_engine import DeviceEngine
from runtime.engine.manifest import (
    ALIGNER_FILE,
    ALIGNER_PLAN,
    DECODER_FILE,
    DECODER_PLAN,
    ENCODER_FILE,
    ENCODER_PLAN,
    EXPORT,
    ONNXRUNTIME,
    TENSORRT,
    TORCH,
)
from runtime.engine.protocol import Engine
from runtime.engine.tensorrt_engine import TensorRtDevice
from runtime.engine.torch_engine import open_torch
from runtime.tokenizer import Tokenizer
from tests.host_cuda import HostCuda, HostTensorRt

PROJECT = Path(__file__).resolve().parent.parent
ENGINES = PROJECT / "engines"
MODEL = "UsefulSensors/moonshine-base"
TENSORRT_BATCHES = {"fp16": 32, "bf16": 1, "fp32": 1, "int8": 1}

# The same examples in every run: a red run is then about the change it tests. HYPOTHESIS_PROFILE=random looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@dataclasses.dataclass(frozen=True)
class Opened:
    """An engine with its tokenizer."""

    engine: Engine
    tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class Spoken:
    """An audio file's samples and what is said in it."""

    name: str
    samples: np.ndarray
    text: str


@pytest.fixture(scope="session")
def built() -> Callable[..., Path]:
    """The engine directory of a precision; an engine that this source has built before is not built again."""
    directories: dict[tuple[str, ...], Path] = {}

    def directory_of(precision: str, target: str = ONNXRUNTIME, *options: str) -> Path:
        asked = (precision, target, *options)
        if asked not in directories:
            assert build.main(["--precision", precision, "--target", target, "--out", str(ENGINES), *options]) == 0
            directories[asked] = ENGINES / manifest.directory_name(MODEL, target, precision)
        return directories[asked]

    return directory_of


def open_engine(precision: str, built: Callable[..., Path], max_batch: int = 8) -> Opened:
    built(precision)
    engine, tokenizer, _ = selection.open_engine(selection.choose(ENGINES, MODEL, precision, ONNXRUNTIME), max_batch)
    return Opened(engine, tokenizer)


def open_torch_on_cpu(precision: str, built: Callable[..., Path], max_batch: int = 8) -> Opened:
    directory = built(precision, TORCH)
    found = manifest.load(directory, MODEL, TORCH, precision, max_batch)
    return Opened(open_torch(directory, found, max_batch, device="cpu"), Tokenizer.load(directory))


@pytest.fixture(scope="session")
def fp32(built) -> Opened:
    return open_engine("fp32", built)


@pytest.fixture(scope="session")
def int8(built) -> Opened:
    return open_engine("int8", built)


@pytest.fixture(scope="session")
def torch_fp32(built) -> Opened:
    """The torch engine on the CPU."""
    return open_torch_on_cpu("fp32", built)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory) -> ctypes.CDLL:
    """The CUDA kernels, compiled for the host."""
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    source = PROJECT / "tests" / "kernels_host.cpp"
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def tensorrt_plans(built) -> Callable[[str], Path]:
    """TensorRT engines of a precision: fp16 in every batch, the others, whose graphs are the same, in the smallest."""

    def directory_of(precision: str) -> Path:
        max_batch = TENSORRT_BATCHES[precision]
        return built(precision, TENSORRT, "--max-batch", str(max_batch), "--flavour", "tensorrt-rtx")

    return directory_of


@pytest.fixture(scope="session")
def open_on_host(tensorrt_plans, tmp_path_factory) -> Callable[..., tuple[DeviceEngine, TensorRtDevice]]:
    """Opens the TensorRT engine in float16 on a stand-in for the GPU: see tests/host_cuda.py."""
    built = manifest.load(tensorrt_plans("fp16"), MODEL, TENSORRT, "fp16", 8)
    exported, directory = ENGINES / manifest.directory_name(MODEL, EXPORT, "fp16"), tmp_path_factory.mktemp("plans")
    for plan, source in ((ENCODER_PLAN, ENCODER_FILE), (DECODER_PLAN, DECODER_FILE), (ALIGNER_PLAN, ALIGNER_FILE)):
        (directory / plan).write_text(str(exported / source))

    def open_engine(cuda: HostCuda, max_batch: int = 8, max_seconds: float | None = None, graphs: bool = False):
        device = TensorRtDevice(directory, built, max_batch, max_seconds, HostTensorRt, cuda, graphs)
        return DeviceEngine(device, built, max_batch), device

    return open_engine


@pytest.fixture(scope="session")
def host_tensorrt_fp16(open_on_host, kernels, tensorrt_plans) -> Opened:
    engine, _ = open_on_host(HostCuda(kernels))
    return Opened(engine, Tokenizer.load(tensorrt_plans("fp16")))


@pytest.fixture(scope="session")
def clips() -> list[Spoken]:
    """The evaluation clips."""
    return [Spoken(clip.path.stem, audio_file.load(clip.path), clip.text) for clip in evaluation_clips()]


@pytest.fixture(scope="session")
def recordings() -> dict[str, Spoken]:
    """The samples by name: short (10 s) and mid (44 s)."""
    return {each.path.stem: Spoken(each.path.stem, audio_file.load(each.path), each.text) for each in samples()}


@dataclasses.dataclass
class RunningServer:
    """A server in a process of its own."""

    address: str
    process: subprocess.Popen
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.address}{path}", trust_env=False)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


@pytest.fixture(scope="session")
def start_server(built, tmp_path_factory) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers with some variables set; all of them are stopped at the end."""
    started: list[RunningServer] = []

    def start(precision: str = "fp32", **variables: str) -> RunningServer:
        built(precision)
        port = free_port()
        log = tmp_path_factory.mktemp("server") / "log"
        environment = os.environ | {
            "ASR_HOST": "127.0.0.1", "ASR_PORT": str(port), "ASR_ENGINE_DIR": str(ENGINES), "MOONSHINE_PRECISION": precision,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "server"],
            cwd=PROJECT,
            env=environment | variables,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        server = RunningServer(f"127.0.0.1:{port}", process, log)
        started.append(server)
        wait_until_ready(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(timeout=40)


def wait_until_ready(server: RunningServer, limit_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        assert server.process.poll() is None, f"the server ended: {server.log.read_text()}"
        try:
            if server.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)  # a process of its own offers nothing to wait on
    raise TimeoutError(f"not ready within {limit_seconds} s: {server.log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
