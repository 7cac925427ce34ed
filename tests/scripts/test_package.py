"""The wheel works where there is no checkout: it is installed into an empty environment, builds, serves, transcribes."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from benchmarks.accuracy import word_error_rate
from benchmarks.servers import wait_until_ready
from tests.conftest import PROJECT, free_port

FOREIGN = ("tests/", "benchmarks/", "scripts/", "docs/")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, PROJECT]
    subprocess.run(command, check=True)
    return next(directory.glob("moonshine_asr-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_runs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
    packages = ("engine_build/", "runtime/", "server/", "moonshine_client/")
    wanted = [name for name in tracked if name.startswith(packages)]
    assert [name for name in wanted if name not in names] == [], "every module, and every file beside one"
    assert [name for name in names if name.startswith(FOREIGN)] == []


class Installed:
    """An environment with the wheel, and a directory with nothing in it."""

    def __init__(self, root: Path, wheel: Path, extra: str):
        self.home = root / "home"
        self.home.mkdir()
        venv.create(root / "venv", with_pip=True)
        self.bin = root / "venv" / "bin"
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment["MOONSHINE_PRECISION"] = "fp32"  # whatever this processor would take
        lock = PROJECT / "requirements.lock"
        command = [self.bin / "pip", "install", "--quiet", "-c", lock, f"{wheel}{extra}"]
        subprocess.run(command, check=True, cwd=self.home, env=self.environment)

    def run(self, *arguments: object, **options) -> subprocess.CompletedProcess:
        command = [self.bin / "moonshine-asr", *map(str, arguments)]
        return subprocess.run(command, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_client_alone_is_light(wheel, tmp_path):
    installed = Installed(tmp_path, wheel, "")
    listed = subprocess.run([installed.bin / "pip", "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert not [name for name in ("torch", "onnxruntime", "fastapi", "pydantic", "msgspec") if f"\n{name} " in listed]
    code = "from moonshine_client import StreamingClient, transcribe; print('imported')"
    done = subprocess.run([installed.bin / "python", "-c", code], cwd=installed.home, capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr
    for name, extra in (("serve", "server"), ("build", "build")):
        done = installed.run(name)
        assert done.returncode == 1 and f"pip install 'moonshine-asr[{extra}]'" in done.stderr


@pytest.mark.slow
@pytest.mark.server
def test_an_engine_is_built_served_and_used_outside_the_checkout(wheel, tmp_path, recordings):
    installed = Installed(tmp_path, wheel, "[build]")
    built = installed.run("build", "--precision", "fp32", "--target", "onnxruntime")
    assert built.returncode == 0, built.stderr
    port = str(free_port())
    serve = [
        installed.bin / "moonshine-asr",
        "serve",
        "--asr-port",
        port,
        "--asr-host",
        "127.0.0.1",
        "--asr-target",
        "onnxruntime",
    ]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(serve, cwd=installed.home, env=installed.environment, stdout=log, stderr=log) as server,
    ):
        try:
            wait_until_ready(f"127.0.0.1:{port}", server)
            said = installed.run("transcribe", PROJECT / "samples" / "short.wav", "--server", f"127.0.0.1:{port}", "--rtf", 4)
        finally:
            server.terminate()
    assert said.returncode == 0, said.stderr
    assert server.returncode == 0, (tmp_path / "log").read_text()
    assert word_error_rate([recordings["short"].text], [said.stdout.strip()]) <= 10
