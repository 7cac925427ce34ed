"""Damaged bytes at every parser that a stranger reaches: the server goes on, has no defect in its log and nothing left over."""

import asyncio
import time

import httpx
import pytest

from benchmarks import fuzz
from benchmarks.fuzz import AUDIOSOCKET, WYOMING, Target
from benchmarks.servers import free_port
from tests.conftest import PROJECT

ATTEMPTS = 250


@pytest.mark.slow
def test_no_bytes_of_a_stranger_are_a_defect(start_server):
    wyoming, audiosocket = free_port(), free_port()
    server = start_server(
        ASR_TARGET="onnxruntime", ASR_VOSK="1", ASR_WYOMING_PORT=str(wyoming), ASR_AUDIOSOCKET_PORT=str(audiosocket)
    )
    target = Target(server.address, ((wyoming, WYOMING), (audiosocket, AUDIOSOCKET)))
    asyncio.run(fuzz.attack(target, range(ATTEMPTS)))
    began = time.monotonic()
    assert server.get("/healthz").status_code == 200 and time.monotonic() - began < 5
    for _ in range(600):
        if server.get("/readyz").json()["sessions"] == 0:
            break
        time.sleep(0.1)  # the server is another process
    assert server.get("/readyz").json()["sessions"] == 0
    log = server.log.read_text()
    assert "Traceback" not in log and "met a defect" not in log, log[-4000:]
    with (PROJECT / "samples" / "short.wav").open("rb") as recording:
        form = {"files": {"file": recording}, "data": {"model": "whisper-1"}}
        answer = httpx.post(f"http://{server.address}/v1/audio/transcriptions", trust_env=False, timeout=60, **form)
    assert answer.status_code == 200 and answer.json()["text"]
