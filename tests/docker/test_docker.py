"""The image as far as it can be checked without a Docker engine: linted, and what it runs is there and runs without torch."""

import itertools
import os
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks.servers import free_port
from runtime.engine import manifest
from runtime.engine.manifest import ONNXRUNTIME
from tests.conftest import MODEL, PROJECT

DOCKER = PROJECT / "docker"
HIDDEN = ("torch", "transformers", "onnxscript")
BIN = f"{os.path.dirname(sys.executable)}:"
SCRIPTS = sorted([*DOCKER.glob("*.sh"), *(PROJECT / "scripts").glob("*.sh")])


def test_the_dockerfile_passes_the_linter():
    hadolint = shutil.which("hadolint", path=os.path.dirname(sys.executable)) or shutil.which("hadolint")
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_dockerfile_names_is_in_the_project():
    text = (DOCKER / "Dockerfile").read_text()
    named = re.findall(r"docker/[\w.]+", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert len(named) >= 4 and all((PROJECT / name).is_file() for name in named)


def test_scripts_pass_shellcheck():
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": BIN + os.environ["PATH"]})
    assert done.returncode == 0, done.stdout


def hide_torch(directory) -> None:
    """Python looks for sitecustomize at its start."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(f"""
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *more: None if name.partition(".")[0] in {HIDDEN!r} else find_spec(name, *more)
)
""")


def run_entrypoint(tmp_path, *arguments: str, **variables: str) -> subprocess.Popen:
    environment = os.environ | {
        "PATH": BIN + os.environ["PATH"],
        "PYTHONPATH": str(tmp_path / "hidden"),
        "ASR_HOST": "127.0.0.1",
        "ASR_TARGET": ONNXRUNTIME,
        "MOONSHINE_PRECISION": "fp32",
        "ASR_ENGINE_DIR": str(tmp_path / "volume"),
    }
    return subprocess.Popen(
        ["bash", DOCKER / "entrypoint.sh", *arguments],
        env=environment | variables,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )


def test_at_its_first_start_the_image_builds_its_engine_without_torch(tmp_path):
    hide_torch(tmp_path / "hidden")
    with run_entrypoint(tmp_path, "--build-only") as builder:
        building = builder.stderr.read()
    assert builder.returncode == 0 and "building the engine: no engine in" in building
    assert (tmp_path / "volume" / manifest.directory_name(MODEL, ONNXRUNTIME, "fp32") / manifest.FILE_NAME).is_file()
    server = run_entrypoint(tmp_path, ASR_PORT=(port := str(free_port())))
    try:
        lines = list(itertools.takewhile(lambda line: "Ctrl-C" not in line, server.stderr))
    finally:
        server.terminate()
    assert server.wait(timeout=40) == 0, "".join(lines)
    said = "".join(lines)
    assert "building" not in said and "onnxruntime fp32" in said, "what is there is not built again"
    assert f"http://localhost:{port}\n" in said and f"http://localhost:{port}/docs\n" in said, "the banner names the port"


@pytest.mark.parametrize(
    ("arguments", "variables", "seconds"),
    [
        ((), {}, 45),
        ((), {"ASR_SHUTDOWN_TIMEOUT_SECONDS": "60.5"}, 85),
        (("-e", "ASR_SHUTDOWN_TIMEOUT_SECONDS=120"), {}, 145),
        (("-e", "ASR_DRAIN_SECONDS=300"), {}, 345),
        ((), {"ASR_DRAIN_SECONDS": "60"}, 105),
    ],
)
def test_a_container_gets_longer_to_stop_than_finals_may_take(tmp_path, arguments, variables, seconds):
    """docker stop kills after 10 s, where nothing else is said: open sessions lost their finals."""
    fake = tmp_path / "docker"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    command = ["bash", DOCKER / "run.sh", *arguments]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | variables
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"--stop-timeout {seconds} " in said
    assert "--read-only" in said and "--cap-drop ALL" in said
