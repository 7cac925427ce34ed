"""The turn model in a server, and the command that installs it."""

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect

from runtime.audio import SAMPLE_RATE
from runtime.turns.weights import FILE_NAME, MEMBER
from server.settings import Model, Settings
from server.startup import ENGINE_STATUS
from tests.conftest import PROJECT, RunningServer, Speech


def judged(server: RunningServer) -> float:
    found = [line for line in server.get("/metrics").text.splitlines() if line.startswith("asr_turn_model_pauses_total{")]
    return sum(float(line.split()[-1]) for line in found if 'outcome="judged"' in line)


def pauses_of(server: RunningServer, speech: Speech) -> list[dict]:
    """The pauses of one stream, at the speed of speech: the model answers in its own time."""

    async def run() -> list[dict]:
        async with connect(f"ws://{server.address}/ws", proxy=None) as socket:
            await socket.send(json.dumps({"op": "init", "sid": "turns", "silence_ms": 3000, "turns": True}))
            audio = np.concatenate([speech.samples, np.zeros(SAMPLE_RATE, np.int16)])
            for start in range(0, len(audio), 1600):
                await socket.send(audio[start : start + 1600].tobytes())
                await asyncio.sleep(0.1)
            await socket.send('{"op":"close"}')
            messages = [json.loads(text) async for text in socket]
        return [message for message in messages if message["op"] == "turn"]

    return asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_pauses_are_judged_where_the_model_is_and_by_silence_and_text_where_it_is_not(
    start_server, turn_model, clips: list[Speech], workers
):
    with_model = start_server(ASR_TURN_MODEL=str(turn_model), ASR_WORKERS=workers)
    assert pauses_of(with_model, clips[0])
    assert with_model.get("/readyz").json()["turn_detection"] == "silence, text, sound"
    if workers == "1":
        assert judged(with_model) >= 1
    without = start_server(ASR_TURN_MODEL="none", ASR_WORKERS=workers)
    assert pauses_of(without, clips[0]) and judged(without) == 0
    assert without.get("/readyz").json()["turn_detection"] == "silence, text"


def test_a_file_that_is_no_turn_model_stops_the_start_with_one_line(built, tmp_path):
    built("fp32")
    bad = tmp_path / "model.onnx"
    bad.write_bytes(b"no model")
    environment = os.environ | {"ASR_TURN_MODEL": str(bad), "ASR_ENGINE_DIR": str(PROJECT / "engines"), "ASR_PORT": "1"}
    environment |= {"ASR_TARGET": "onnxruntime", "MOONSHINE_PRECISION": "fp32", "ASR_HOST": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "server"], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == ENGINE_STATUS and "no model of turns" in done.stderr and "Traceback" not in done.stderr


def test_the_setting_takes_the_installed_one_a_file_or_none(tmp_path):
    assert Settings().model.turn_model == "auto"
    assert Model(ASR_TURN_MODEL="none").turn_model == "none"


@pytest.mark.slow
def test_the_command_installs_the_model_out_of_a_wheel(turn_model, tmp_path):
    wheel: Path = tmp_path / "pipecat.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(turn_model, MEMBER)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def turns(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "moonshine_client.command", "turns", *map(str, arguments)]
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)

    assert turns("status").returncode == 1 and "turns install" in turns("status").stdout
    done = turns("install", "--wheel", wheel)
    assert done.returncode == 0 and FILE_NAME in done.stdout
    assert turns("status").returncode == 0
    wheel.write_bytes(b"no wheel")
    done = turns("install", "--wheel", wheel)
    assert done.returncode == 1 and "has no" in done.stderr and "Traceback" not in done.stderr
    assert turns("status").returncode == 0, "what is there stays"
