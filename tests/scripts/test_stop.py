"""stop.sh removes what the scripts made, and nothing else."""

import shutil
import signal
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path):
    """The scripts in a directory of their own, with an environment and an engine as they make them."""
    root = tmp_path / "checkout"
    shutil.copytree(PROJECT / "scripts", root / "scripts")
    for package in ("benchmarks", "engine_build", "moonshine_client", "runtime", "server", "tests"):
        (root / package / "__pycache__").mkdir(parents=True)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / ".made-by-moonshine-asr").touch()
    (root / "engines" / "moonshine-base-onnxruntime-fp32").mkdir(parents=True)
    (root / "engines" / "moonshine-base-onnxruntime-fp32" / "manifest.json").write_text('{"builder_sha256": "00"}')
    return root


def stop(checkout, *arguments: str, status: int = 0, **variables: str) -> str:
    environment = {"PATH": "/usr/bin:/bin"} | variables
    command = ["bash", checkout / "scripts" / "stop.sh", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr


def test_all_that_the_scripts_made_is_removed(checkout):
    stop(checkout, "--engines")
    assert not (checkout / ".venv").exists() and not (checkout / "engines").exists()
    assert not list(checkout.rglob("__pycache__"))


def test_engines_stay_where_nobody_asks_for_their_end(checkout):
    stop(checkout)
    assert not (checkout / ".venv").exists() and (checkout / "engines").is_dir()


def test_keep_only_stops(checkout):
    stop(checkout, "--keep")
    assert (checkout / ".venv").is_dir() and (checkout / "server" / "__pycache__").is_dir()


def test_a_strangers_files_among_the_engines_stay(checkout, tmp_path):
    """The whole directory used to be removed, whatever it was."""
    shared = tmp_path / "shared"
    shutil.move(checkout / "engines", shared)
    (shared / "thesis.txt").write_text("years of work")
    (shared / "another").mkdir()
    (shared / "another" / "manifest.json").write_text('{"name": "an app"}')
    assert f"left alone: {shared}" in stop(checkout, "--engines", ASR_ENGINE_DIR=str(shared))
    assert sorted(path.name for path in shared.iterdir()) == ["another", "thesis.txt"]


def test_an_environment_that_others_made_stays(checkout, tmp_path):
    others = tmp_path / "venv"
    (others / "bin").mkdir(parents=True)
    (others / "pyvenv.cfg").touch()
    assert f"left alone: {others}" in stop(checkout, VENV_PATH=str(others))
    assert others.is_dir()


@pytest.mark.parametrize("content", ["", "no number", "1; rm -rf /", "999999999"])
def test_a_stale_or_damaged_pid_file_ends_nobody(checkout, content):
    (checkout / ".server.8000.pid").write_text(content)
    stop(checkout, "--keep")
    assert not (checkout / ".server.8000.pid").exists()


@pytest.fixture
def servers(checkout):
    """Two processes that look like servers of the checkout, on two ports."""
    started = []
    for port in (8000, 9000):
        code = "import signal, sys; print('up', flush=True); signal.pause()"
        process = subprocess.Popen([sys.executable, "-c", code, "-m server"], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"up\n"
        (checkout / f".server.{port}.pid").write_text(f"{process.pid}\n")
        started.append(process)
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_one_of_several_servers_is_stopped_and_the_environment_of_the_others_stays(checkout, servers):
    stop(checkout, "--keep", ASR_PORT="9000")
    assert servers[1].wait(timeout=10) == -signal.SIGTERM and servers[0].poll() is None
    assert "another server of this checkout is running" in stop(checkout, status=1, ASR_PORT="9000")
    assert (checkout / ".venv").is_dir() and servers[0].poll() is None


def test_all_servers_are_stopped_where_no_port_is_named(checkout, servers):
    said = stop(checkout)
    assert [process.wait(timeout=10) for process in servers] == [-signal.SIGTERM] * 2
    assert "removing" in said and not (checkout / ".venv").exists()


def test_a_running_server_is_found_where_there_is_no_proc(checkout, servers, tmp_path):
    """As on macOS: the environment of a running server used to be removed."""
    text = (checkout / "scripts" / "environment.sh").read_text()
    assert text.count("/proc/") == 2, "in one function only"
    (checkout / "scripts" / "environment.sh").write_text(text.replace("/proc/", "/no-proc/"))
    stop(checkout, "--keep", ASR_PORT="8000")
    assert servers[0].wait(timeout=10) == -signal.SIGTERM
