"""The wheel works where there is no checkout: it is installed into an empty environment, builds, serves, transcribes."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.servers import free_port, wait_until_ready
from tests.conftest import PROJECT

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
        # Whatever this processor would take.
        self.environment |= {
            "MOONSHINE_PRECISION": "fp32",
            "ASR_TARGET": "onnxruntime",
            "XDG_CACHE_HOME": str(self.home / "cache"),
        }
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
    for name in ("serve", "build", "doctor"):
        done = installed.run(name)
        assert done.returncode == 1 and "install the package with its extra [server]" in done.stderr


@pytest.fixture(scope="module")
def served_by_the_package(wheel, tmp_path_factory) -> Iterator[tuple[Installed, str]]:
    """An environment with the server and no torch; what one command there serves, and its address."""
    installed = Installed(tmp_path_factory.mktemp("package"), wheel, "[server]")
    address, log = f"127.0.0.1:{free_port()}", installed.home / "log"
    serve = [installed.bin / "moonshine-asr", "serve", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    with (
        log.open("w") as output,
        subprocess.Popen(serve, cwd=installed.home, env=installed.environment, stdout=output, stderr=output) as server,
    ):
        try:
            wait_until_ready(address, server)
            yield installed, address
        finally:
            server.terminate()
    assert server.returncode == 0, log.read_text()


@pytest.mark.slow
@pytest.mark.server
def test_one_command_builds_and_serves_outside_the_checkout_without_torch(served_by_the_package, recordings):
    installed, address = served_by_the_package
    listed = subprocess.run([installed.bin / "pip", "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert "\ntorch " not in listed and "\nonnxscript " not in listed
    engines = installed.home / "cache" / "moonshine-asr" / "engines"
    assert [path.name for path in engines.iterdir()] == ["moonshine-base-onnxruntime-fp32"], "in the user's cache directory"
    said = installed.run("transcribe", PROJECT / "samples" / "short.wav", "--server", address, "--rtf", 4)
    assert said.returncode == 0, said.stderr
    assert word_error_rate([recordings["short"].text], [said.stdout.strip()]) <= 10


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_the_npm_package_runs_in_node(served_by_the_package, tmp_path, recordings):
    """Packed as scripts/release.sh packs it."""
    package = Path(shutil.copytree(PROJECT / "deploy" / "npm", tmp_path / "package"))
    shutil.copy(PROJECT / "server" / "web" / "moonshine-client.js", package)
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    quiet = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    subprocess.run([*quiet, f"./{packed}", "ws@8", "typescript@5"], cwd=tmp_path, check=True, timeout=300)
    shutil.copy(PROJECT / "tests" / "data" / "npm_client.mjs", tmp_path)
    command = ["node", "npm_client.mjs", f"http://{served_by_the_package[1]}", str(PROJECT / "samples" / "short.wav")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    way, _, text = done.stdout.strip().partition(": ")
    assert way == "websocket" and word_error_rate([recordings["short"].text], [text]) <= 15
    (tmp_path / "use.mts").write_text(
        'import {MoonshineClient, type Final} from "moonshine-asr-client";\n'
        'const client = new MoonshineClient({server: ["http://a", "http://b"], transport: "websocket"});\n'
        "client.send(new Int16Array(160));\nconst final: Final = await client.close();\nconsole.log(final.text.length);\n"
    )
    check = ["npx", "tsc", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom", "use.mts"]
    typed = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert typed.returncode == 0, typed.stdout
