"""The quick start as a stranger runs it: a fresh clone, an ordinary package index, nothing of this machine's own set-up."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.servers import free_port
from tests.conftest import PROJECT

EXTRAS = ("server", "torch", "tracing", "cluster", "mic", "gpu", "test", "chart")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DEBIAN, DEBIAN_ON_ARM, MAC = "x86_64-manylinux_2_36", "aarch64-manylinux_2_36", "aarch64-apple-darwin"
OWN_TO_A_MACHINE = ("PIP_", "UV_")  # variables of installers; what trusts a certificate is no answer to what is installed
# ONNX Runtime needs macOS 14.
UV = Path(sys.executable).with_name("uv")


def strangers_environment(**more: str) -> dict[str, str]:
    """Ours, without what only this machine has: an index, a folder of wheels, constraints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_TO_A_MACHINE) or name.endswith("_CERT")}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "MACOSX_DEPLOYMENT_TARGET": "14.0"} | more


def resolve(requirements: str, python: str, platform: str, constraints: str, tmp_path: Path) -> str:
    (tmp_path / "requirements.in").write_text(requirements)
    (tmp_path / "constraints.txt").write_text(constraints)
    command = [
        UV,
        "pip",
        "compile",
        "requirements.in",
        "--no-config",
        "--quiet",
        "--no-annotate",
        "--no-header",
        "--constraint",
        "constraints.txt",
        "--python-version",
        python,
        "--python-platform",
        platform,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=strangers_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "platform"),
    [("3.11", DEBIAN), ("3.13", DEBIAN), ("3.14", DEBIAN), ("3.11", DEBIAN_ON_ARM), ("3.14", MAC)],
)
def test_every_extra_resolves_by_the_lock_on_an_ordinary_index(python, platform, tmp_path):
    """All of them at once: what they need together is what tests need, and a part of it can be had, too."""
    lock = (PROJECT / "requirements.lock").read_text()
    found = resolve(f"moonshine-asr[{','.join(EXTRAS)}] @ file://{PROJECT}\n", python, platform, lock, tmp_path)
    pinned = set(re.findall(r"^([a-z0-9.-]+==[^ ;\n]+)", lock, re.MULTILINE))
    taken = set(re.findall(r"^([a-z0-9.-]+==[^ ;\n]+)", found, re.MULTILINE))
    assert "torch==2.13.0" in taken and taken <= pinned, taken - pinned


@pytest.mark.slow
def test_another_torch_resolves_with_the_lock_but_for_torchs_own_packages(tmp_path):
    """As TORCH_CUDA=cu121 TORCH_VERSION=2.4.0 asks for it; the ordinary index has that build under its plain version."""
    source = f"source {PROJECT / 'scripts' / 'environment.sh'}; torch_constraints"
    variables = {"TORCH_CUDA": "cu121", "TORCH_VERSION": "2.4.0", "PATH": os.environ["PATH"]}
    constraints = subprocess.run(["bash", "-c", source], env=variables, capture_output=True, text=True, check=True).stdout
    assert "\nnumpy==" in constraints and not re.search(r"^(torch|triton|nvidia-\S+)==", constraints, re.MULTILINE)
    found = resolve("torch==2.4.0\n", "3.12", DEBIAN, constraints, tmp_path)
    assert "nvidia-cuda-nvrtc-cu12==12.1" in found


def pythons_here() -> list[str]:
    """The oldest and the newest Python of those that are supported and at hand."""
    places = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
    found = {}
    for version in PYTHONS:
        candidates = (shutil.which(f"python{version}", path=place) for place in places if "shims" not in place)
        if program := next(filter(None, candidates), None):
            found[version] = program
    return list(dict.fromkeys([found[min(found, key=minor)], found[max(found, key=minor)]]))


def minor(version: str) -> int:
    return int(version.partition(".")[2])


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("python", pythons_here())
def test_the_quick_start_runs_from_a_fresh_clone(python, tmp_path, recordings):
    """Three commands: start, client, stop."""
    checkout, port = tmp_path / "moonshine-asr", str(free_port())
    subprocess.run(["git", "clone", "--quiet", PROJECT, checkout], check=True)
    environment = strangers_environment(
        PYTHON_FOR_VENV=python,
        ASR_HOST="127.0.0.1",
        ASR_PORT=port,
        VENV_PATH=str(checkout / ".venv"),
        HOME=str(tmp_path),
        CALLER_DIR=str(checkout),
    )
    started = subprocess.Popen(["bash", "scripts/start.sh"], cwd=checkout, env=environment, stderr=subprocess.PIPE, text=True)
    said = []
    for line in started.stderr:
        said.append(line)
        if "Ctrl-C" in line:
            break
    try:
        assert f"http://localhost:{port}\n" in "".join(said), "".join(said)
        assert "1 of 3: the virtual environment" in said[0] and not (checkout / ".venv" / "lib" / "torch").exists()
        client = ["bash", "scripts/client.sh", "--file", "short.wav", "--rtf", "4", "--full-text"]
        done = subprocess.run(client, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert word_error_rate([recordings["short"].text], [done.stdout.splitlines()[-3]]) <= 15, done.stdout
        for script in ("client", "warmup"):
            command = [
                checkout / ".venv" / "bin" / "python",
                f"tests/{script}.py",
                "--server",
                f"127.0.0.1:{port}",
                "--file",
                "short.wav",
                "--rtf",
                "10",
                "--full-text",
            ]
            assert subprocess.run(command, cwd=checkout, env=environment, capture_output=True, timeout=120).returncode == 0
        bench = [
            checkout / ".venv" / "bin" / "python",
            "tests/bench.py",
            "--server",
            f"127.0.0.1:{port}",
            "--n",
            "4",
            "--concurrency",
            "2",
            "--rtf",
            "10",
        ]
        assert subprocess.run(bench, cwd=checkout, env=environment, capture_output=True, timeout=120).returncode == 0
        stopped = subprocess.run(
            ["bash", "scripts/stop.sh"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60
        )
        assert stopped.returncode == 0 and "removing" in stopped.stderr and not (checkout / ".venv").exists(), stopped.stderr
        assert started.wait(timeout=10) == 0
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            started.wait(timeout=40)
        started.stderr.close()
