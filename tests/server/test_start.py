"""What stops the server at start: one line each, and it says what to do."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from benchmarks.servers import free_port
from runtime import hardware
from runtime.engine.manifest import FORMAT
from server.settings import Listen
from server.startup import has_ipv6, listen_for_http
from tests.conftest import ENGINES, PROJECT

pytestmark = pytest.mark.server  # each starts a process, which takes a second even where it ends at once


def start(**variables: str) -> tuple[int, str]:
    """Exit status and the error output of a server that does not come up."""
    usual = {"ASR_HOST": "127.0.0.1", "ASR_ENGINE_DIR": str(ENGINES), "MOONSHINE_PRECISION": "fp32"}
    environment = os.environ | usual | variables
    done = subprocess.run(
        [sys.executable, "-m", "server"], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.strip()


def test_a_setting_that_cannot_be_used_stops_the_start_with_one_line():
    status, line = start(ASR_PORT="eighty")
    assert status == 2 and line.startswith("ASR_PORT='eighty'") and "\n" not in line


def test_a_password_in_a_setting_that_cannot_be_used_is_not_printed():
    status, line = start(ASR_ICE_SERVERS="turn:user:secret@host:port")
    assert status == 2 and line.startswith("ASR_ICE_SERVERS cannot be used") and "secret" not in line and "\n" not in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_found_before_the_engine_is_opened(workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, line = start(ASR_PORT=port, ASR_WORKERS=workers, ASR_ENGINE_DIR="/nowhere")
    assert status == 1 and line == f"cannot listen on 127.0.0.1:{port}: address already in use (ASR_HOST, ASR_PORT)"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with other gateways"])
def test_every_address_is_of_both_families_and_clients_keep_theirs(shared):
    listening = Listen(ASR_HOST="::", ASR_PORT=free_port())
    listeners = listen_for_http(listening, shared)
    try:
        for listener in listeners:
            listener.listen()
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, listening.port)) as client:
                by_family = next(each for each in listeners if each.family == client.family)
                accepted, address = by_family.accept()
                accepted.close()
                assert address[0] == host
    finally:
        for listener in listeners:
            listener.close()


def test_a_host_that_is_unknown_stops_the_start_with_one_line():
    status, line = start(ASR_HOST="no.such.host.invalid", ASR_ENGINE_DIR="/nowhere")
    assert status == 1 and line.startswith("cannot listen on no.such.host.invalid:8000: ") and "\n" not in line


@pytest.mark.engine
def test_a_temporary_directory_that_is_too_long_for_sockets_stops_the_start(built, tmp_path):
    built("fp32")
    long = tmp_path / ("x" * 100)
    long.mkdir()
    status, line = start(
        TMPDIR=str(long), ASR_WORKERS="2", ASR_PORT=str(free_port()), ASR_TARGET="onnxruntime", ASR_LOG_LEVEL="error"
    )
    assert status == 1 and line.startswith("TMPDIR is too long") and "\n" not in line


@pytest.mark.server
def test_a_server_that_is_stopped_while_it_warms_up_ends_without_a_traceback(built, tmp_path):
    built("fp32")
    log = (tmp_path / "log").open("w+")
    variables = {
        "ASR_HOST": "127.0.0.1",
        "ASR_PORT": str(free_port()),
        "ASR_ENGINE_DIR": str(ENGINES),
        "ASR_TARGET": "onnxruntime",
        "MOONSHINE_PRECISION": "fp32",
        "MODEL_WARMUP_SECONDS": "20",
    }
    command = [sys.executable, "-m", "server"]
    with subprocess.Popen(command, cwd=PROJECT, env=os.environ | variables, stderr=log) as process:
        while "Application startup complete" not in (tmp_path / "log").read_text() and process.poll() is None:
            time.sleep(0.02)  # a process of its own offers nothing to wait on
        process.terminate()
        assert process.wait(timeout=40) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


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
    "smaller batch": (lambda d: spoil_manifest(d, '"max_batch": 1024', '"max_batch": 4'), "batches up to 4, not 32"),
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
def test_a_gpu_engine_without_a_gpu_stops_the_start_with_one_line(tensorrt_plans):
    tensorrt_plans("fp16")
    status, line = start(ASR_TARGET="tensorrt", MOONSHINE_PRECISION="fp16", MAX_BATCH_SIZE="8")
    assert status == 3 and "needs an NVIDIA GPU" in line and "ASR_TARGET=onnxruntime" in line and "\n" not in line
