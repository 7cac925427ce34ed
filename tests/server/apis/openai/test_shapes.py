"""Older and other shapes of the Realtime API: the messages of OpenAI's beta and of vLLM. NVIDIA's client is an example."""

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from tests.conftest import RunningServer, Speech

CHUNK_BYTES = 2 * SAMPLE_RATE // 10
PREFIX = "conversation.item.input_audio_transcription"


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime")


def opened(server: RunningServer, **options) -> connect:
    return connect(f"ws://{server.address}/v1/realtime?intent=transcription", proxy=None, **options)


async def append(socket: ClientConnection, samples: np.ndarray) -> None:
    pcm = samples.tobytes()
    for start in range(0, len(pcm), CHUNK_BYTES):
        audio = base64.b64encode(pcm[start : start + CHUNK_BYTES]).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))


async def until(socket: ClientConnection, kind: str) -> list[dict]:
    events: list[dict] = []
    while not events or events[-1]["type"] != kind:
        events.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
        assert events[-1]["type"] != "error", events[-1]
    return events


@pytest.mark.parametrize("handshake", [{"additional_headers": {"OpenAI-Beta": "realtime=v1"}}, {}], ids=["header", "message"])
def test_beta_clients_get_beta_events(served, recordings: dict[str, Speech], handshake):
    samples = np.repeat(recordings["short"].samples, 3)[::2]  # at 24 kHz, roughly

    async def run() -> list[dict]:
        async with opened(served, **handshake) as socket:
            first = json.loads(await socket.recv())
            session = {"input_audio_format": "pcm16", "turn_detection": None, "input_audio_transcription": {"model": "whisper-1"}}
            await socket.send(json.dumps({"type": "transcription_session.update", "session": session}))
            updated = json.loads(await socket.recv())
            await append(socket, samples)
            await socket.send('{"type":"input_audio_buffer.commit"}')
            return [first, updated, *await until(socket, f"{PREFIX}.completed")]

    first, updated, *events = asyncio.run(run())
    assert first["type"] == ("transcription_session.created" if handshake else "session.created")
    assert updated["type"] == "transcription_session.updated" and updated["session"]["input_audio_format"] == "pcm16"
    kinds = [event["type"] for event in events]
    assert "conversation.item.created" in kinds and "conversation.item.added" not in kinds
    assert "".join(event["delta"] for event in events if event["type"] == f"{PREFIX}.delta") == events[-1]["transcript"]
    assert word_error_rate([recordings["short"].text], [events[-1]["transcript"]]) <= 15


def test_vllms_clients_get_text_without_items(served, recordings: dict[str, Speech]):
    async def run() -> list[dict]:
        async with opened(served) as socket:
            assert json.loads(await socket.recv())["id"]
            await socket.send('{"type":"session.update","model":"moonshine-base"}')
            await socket.send('{"type":"input_audio_buffer.commit"}'.replace("}", ',"final":false}'))
            await append(socket, recordings["short"].samples)
            await socket.send('{"type":"input_audio_buffer.commit","final":true}')
            return await until(socket, "transcription.done")

    events = asyncio.run(run())
    assert {event["type"] for event in events} <= {"transcription.delta", "transcription.done"}
    assert "".join(event.get("delta", "") for event in events) == events[-1]["text"]
    assert word_error_rate([recordings["short"].text], [events[-1]["text"]]) <= 15


def test_a_beta_session_is_made_with_a_secret(served):
    answer = httpx.post(f"http://{served.address}/v1/realtime/transcription_sessions", json={}, trust_env=False).json()
    assert answer["client_secret"]["value"].startswith("ek_") and answer["input_audio_format"] == "pcm16"
