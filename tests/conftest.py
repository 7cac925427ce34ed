"""Marks, recordings, engines with the real weights, built once for all tests, and servers that run them.

What needs an engine imports it when it is first asked for, so that the tests without one start in a second.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import hypothesis
import numpy as np
import pytest

from benchmarks.servers import free_port
from moonshine_client import audio_file

if TYPE_CHECKING:
    from tests.engines import Built, Opened

PROJECT = Path(__file__).resolve().parent.parent
ENGINES = PROJECT / "engines"
TURNS = ENGINES / "turns"
MODEL = "UsefulSensors/moonshine-base"
ENGINE_FIXTURES = {"built", "kernels"}
SERVER_FIXTURES = {"start_server"}
WATCHED = {"ray", "processes", "telemetry"}
"""Folders of tests whose servers take a process that is late for one that hangs."""

# The same examples in every run: a red run is then about the change it tests. HYPOTHESIS_PROFILE=random looks for new ones.
NOT_TIMED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}  # a busy machine is no fault
hypothesis.settings.register_profile("same", derandomize=True, **NOT_TIMED)
hypothesis.settings.register_profile("random", max_examples=1000, **NOT_TIMED)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test is marked by what it asks for: an engine, or a server."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & ENGINE_FIXTURES:
            item.add_marker("engine")
        if fixtures & SERVER_FIXTURES:
            item.add_marker("server")


@pytest.fixture(scope="session")
def turn_model() -> Path:
    """The file of the turn model, installed once beside the engines."""
    from runtime.turns import weights

    return weights.installed(TURNS) or weights.install(TURNS)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Processes that watch each other must not wait for the other half of the tests, which runs beside them."""
    is_watched = item.path.is_relative_to(PROJECT / "tests" / "server")
    with contextlib.suppress(PermissionError):  # only root may go back
        os.setpriority(os.PRIO_PROCESS, 0, 0 if is_watched and item.path.parent.name in WATCHED else 10)


@dataclasses.dataclass(frozen=True)
class Speech:
    """An audio file's samples and what is said in it."""

    name: str
    samples: np.ndarray
    text: str


@pytest.fixture(scope="session")
def built() -> "Built":
    from tests import engines

    return engines.builder()


@pytest.fixture(scope="session")
def fp32(built) -> "Opened":
    from tests import engines

    return engines.open_onnx("fp32", built)


@pytest.fixture(scope="session")
def int8(built) -> "Opened":
    from tests import engines

    return engines.open_onnx("int8", built)


@pytest.fixture(scope="session")
def native_fp32(built) -> "Opened":
    from tests import engines

    return engines.open_native("fp32", built)


@pytest.fixture(scope="session")
def native_bf16(built) -> "Opened":
    from tests import engines

    return engines.open_native("bf16", built)


@pytest.fixture(scope="session")
def native_int8(built) -> "Opened":
    from tests import engines

    return engines.open_native("int8", built)


@pytest.fixture(scope="session")
def torch_fp32(built) -> "Opened":
    """The torch engine on the CPU."""
    from tests import engines

    return engines.open_torch_on_cpu("fp32", built)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory) -> ctypes.CDLL:
    """The CUDA kernels, compiled for the host."""
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    source = PROJECT / "tests" / "kernels_host.cpp"
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def tensorrt_plans(built) -> Callable[[str], Path]:
    """TensorRT engines by precision."""
    from tests import engines

    return lambda precision: engines.plans_of(precision, built)


@pytest.fixture(scope="session")
def open_on_host(tensorrt_plans, tmp_path_factory) -> Callable:
    """Opens the TensorRT engine in float16 on a stand-in for the GPU."""
    from tests import engines

    return engines.opener_on_host(tensorrt_plans("fp16"), tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="session")
def host_tensorrt_fp16(open_on_host, kernels, tensorrt_plans) -> "Opened":
    from runtime.tokenizer import Tokenizer
    from tests.engines import Opened
    from tests.host_cuda import HostCuda

    engine, _ = open_on_host(HostCuda(kernels))
    return Opened(engine, Tokenizer.load(tensorrt_plans("fp16")))


@pytest.fixture(scope="session")
def clips() -> list[Speech]:
    """The evaluation clips."""
    from benchmarks.harness.accuracy import evaluation_clips

    return [Speech(clip.path.stem, audio_file.load(clip.path), clip.text) for clip in evaluation_clips()]


@pytest.fixture(scope="session")
def recordings() -> dict[str, Speech]:
    """The samples by name: short (10 s) and mid (44 s)."""
    from benchmarks.harness.accuracy import samples

    return {each.path.stem: Speech(each.path.stem, audio_file.load(each.path), each.text) for each in samples()}


@dataclasses.dataclass
class RunningServer:
    """A server in a process of its own."""

    address: str
    process: subprocess.Popen
    log: Path
    has_tls: bool = False

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http{'s' * self.has_tls}://{self.address}{path}", trust_env=False, verify=False)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


@pytest.fixture(scope="module")
def start_server(built, tmp_path_factory) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers with some variables set. They are stopped behind their file: each holds an engine, a gigabyte of memory."""
    started: list[RunningServer] = []

    def start(precision: str = "fp32", **variables: str) -> RunningServer:
        built(precision)
        port = int(variables.get("ASR_PORT") or free_port())
        log = tmp_path_factory.mktemp("server") / "log"
        environment = os.environ | {
            "ASR_HOST": "127.0.0.1",
            "ASR_PORT": str(port),
            "ASR_ENGINE_DIR": str(ENGINES),
            "MOONSHINE_PRECISION": precision,
            "ASR_TARGET": "onnxruntime",
            "ASR_MAX_SESSIONS": "12",
            "ASR_TURN_MODEL": "none",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "server"],
            cwd=PROJECT,
            env=environment | variables,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        server = RunningServer(f"127.0.0.1:{port}", process, log, has_tls="ASR_TLS_CERT" in variables)
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
