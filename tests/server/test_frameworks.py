"""LiveKit's and pipecat's own plugins, unmodified, each in an environment of its own, by the examples that show them."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

from benchmarks.harness.accuracy import word_error_rate
from tests.conftest import PROJECT, RunningServer, Speech

LIVEKIT = ("livekit-plugins-openai==1.8.9", "livekit-plugins-deepgram==1.8.9")
PIPECAT = ("pipecat-ai[deepgram,openai]==1.14.0",)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime")


def environment(directory: Path, packages: tuple[str, ...]) -> Path:
    """Its Python."""
    venv.create(directory, with_pip=True)
    without_path = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([directory / "bin" / "pip", "install", "--quiet", *packages], check=True, env=without_path)
    return directory / "bin" / "python"


@pytest.fixture(scope="module")
def livekit(tmp_path_factory) -> Path:
    return environment(tmp_path_factory.mktemp("livekit"), LIVEKIT)


@pytest.fixture(scope="module")
def pipecat(tmp_path_factory) -> Path:
    return environment(tmp_path_factory.mktemp("pipecat"), PIPECAT)


def lines_of(python: Path, example: str, server: RunningServer, plugin: str) -> list[str]:
    command = [python, f"examples/{example}", "samples/short.wav", plugin]
    variables = os.environ | {"SERVER": server.address, "NO_PROXY": "*", "no_proxy": "*"}
    done = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def after(lines: list[str], kind: str) -> list[str]:
    return [line.removeprefix(kind).strip() for line in lines if line.startswith(kind)]


@pytest.mark.parametrize("plugin", ["openai", "deepgram"])
def test_livekit_hears_turns_interims_and_finals(served, livekit, recordings: dict[str, Speech], plugin):
    lines = lines_of(livekit, "livekit_stt.py", served, plugin)
    kinds = [line.split()[0] for line in lines]
    assert kinds.index("start_of_speech") < kinds.index("interim_transcript") < kinds.index("final_transcript")
    assert "end_of_speech" in kinds
    assert word_error_rate([recordings["short"].text], [" ".join(after(lines, "final_transcript"))]) <= 15


@pytest.mark.parametrize("service", ["openai", "deepgram"])
def test_pipecat_hears_interims_and_finals(served, pipecat, recordings: dict[str, Speech], service):
    lines = lines_of(pipecat, "pipecat_stt.py", served, service)
    assert after(lines, "InterimTranscriptionFrame")
    assert word_error_rate([recordings["short"].text], [" ".join(after(lines, "TranscriptionFrame"))]) <= 15
