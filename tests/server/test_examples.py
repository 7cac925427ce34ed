"""The examples run as written."""

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
import srt
import webvtt

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.servers import free_port
from moonshine_client import audio_file
from tests.conftest import PROJECT, RunningServer

SHORT = PROJECT / "samples" / "short.wav"
COMMANDS = {
    "transcribe.sh": ("bash", "examples/transcribe.sh", str(SHORT), "text"),
    "openai_file.py": (sys.executable, "examples/openai_file.py", str(SHORT)),
    "openai_realtime.py": (sys.executable, "examples/openai_realtime.py", str(SHORT)),
    "riva_realtime.py": (sys.executable, "examples/riva_realtime.py", str(SHORT)),
    "deepgram_live.py": (sys.executable, "examples/deepgram_live.py", str(SHORT)),
    "openai_call.py": (sys.executable, "examples/openai_call.py", str(SHORT)),
    "websocket_live.py": (sys.executable, "examples/websocket_live.py", str(SHORT)),
    "wyoming_file.py": (sys.executable, "examples/wyoming_file.py", str(SHORT)),
    "asterisk_call.py": (sys.executable, "examples/asterisk_call.py", str(SHORT)),
    "ffmpeg_whip.sh": ("bash", "examples/ffmpeg_whip.sh", str(SHORT)),
    "live.py": (sys.executable, "examples/live.py", str(SHORT)),
}


WYOMING_PORT, AUDIOSOCKET_PORT = free_port(), free_port()


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime", ASR_WYOMING_PORT=str(WYOMING_PORT), ASR_AUDIOSOCKET_PORT=str(AUDIOSOCKET_PORT))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_runs_as_written(served, name):
    environment = os.environ | {
        "SERVER": served.address,
        "PYTHONPATH": str(PROJECT),
        "NO_PROXY": "*",
        "no_proxy": "*",
        "FFMPEG": imageio_ffmpeg.get_ffmpeg_exe(),
        "WYOMING": f"127.0.0.1:{WYOMING_PORT}",
        "AUDIOSOCKET": f"127.0.0.1:{AUDIOSOCKET_PORT}",
    }
    done = subprocess.run(COMMANDS[name], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert word_error_rate([SHORT.with_suffix(".txt").read_text()], [said_in(name, done.stdout)]) <= 15


def said_in(name: str, output: str) -> str:
    match name:
        case "live.py" | "riva_realtime.py":
            return output.splitlines()[-1]
        case "ffmpeg_whip.sh":
            return " ".join(cue.text for cue in webvtt.from_string(output).captions)
        case _:
            return output


def test_every_example_is_listed():
    listed = (PROJECT / "examples" / "README.md").read_text()
    for path in (PROJECT / "examples").iterdir():
        assert path.name == "README.md" or f"[{path.name}]({path.name})" in listed


@pytest.mark.slow
def test_a_folder_of_recordings_gets_subtitles(served, tmp_path):
    (tmp_path / "talk.wav").write_bytes(SHORT.read_bytes())
    (tmp_path / "notes.txt").write_text("no recording")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "examples/subtitles.sh", tmp_path],
        cwd=PROJECT,
        env=os.environ | {"SERVER": served.address, "PATH": path},
        check=True,
        timeout=60,
    )
    assert [each.name for each in (tmp_path / "subtitles").iterdir()] == ["talk.srt"]
    words = " ".join(cue.content for cue in srt.parse((tmp_path / "subtitles" / "talk.srt").read_text()))
    assert word_error_rate([SHORT.with_suffix(".txt").read_text()], [words]) <= 15


@pytest.mark.slow
def test_a_call_is_recorded_and_transcribed(served, tmp_path):
    sound = audio_file.load(SHORT).tobytes()
    environment = os.environ | {"SERVER": served.address, "PYTHONPATH": str(PROJECT), "NO_PROXY": "*"}
    program = [sys.executable, PROJECT / "examples" / "call_recorder.py", "talk"]
    subprocess.run(program, cwd=tmp_path, env=environment, input=sound, check=True, timeout=60)
    assert audio_file.load(tmp_path / "talk.wav").tobytes() == sound
    words = " ".join(line.partition("  ")[2] for line in (tmp_path / "talk.txt").read_text().splitlines())
    assert word_error_rate([SHORT.with_suffix(".txt").read_text()], [words]) <= 15
