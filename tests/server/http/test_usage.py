"""How much each API key has used, counted once whatever the API."""

import asyncio
import io
import json
import wave

import httpx
import pytest
from websockets.asyncio.client import connect

from benchmarks.servers import free_port
from moonshine_client import StreamingClient
from runtime.audio import SAMPLE_RATE
from tests.conftest import RunningServer
from tests.server.web.browsing import wait_for

ACME, INITECH, USAGE = "sk-acme-0123456789", "sk-initech-0123456789", "usage-0123456789"
SECONDS = 2
admin_ports: dict[str, int] = {}  # by the address of the server
PCM = bytes(2 * SAMPLE_RATE * SECONDS)


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two gateways"])
def served(request, start_server) -> RunningServer:
    keys = f"{ACME} name=acme, {INITECH} name=initech"
    port = free_port()
    server = start_server(ASR_API_KEYS=keys, ASR_USAGE_KEY=USAGE, ASR_WORKERS=request.param, ASR_ADMIN_PORT=str(port))
    admin_ports[server.address] = port
    return server


def usage_of(server: RunningServer, key: str = USAGE) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.get(f"http://{server.address}/v1/usage", headers=headers, trust_env=False)


def wav() -> io.BytesIO:
    written = io.BytesIO()
    with wave.open(written, "wb") as audio:
        audio.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        audio.writeframes(PCM)
    written.seek(0)
    return written


def counted(usage: dict) -> dict[str, tuple[int, int]]:
    """Seconds and sessions by key."""
    return {each["key"]: (round(each["audio_seconds"]), each["sessions"]) for each in usage["data"]}


async def use_every_api(server: RunningServer, key: str) -> int:
    """Two seconds by each; returns how many sessions that were."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"http://{server.address}", headers=headers, trust_env=False, timeout=30) as http:
        sent = await http.post("/v1/audio/transcriptions", files={"file": ("a.wav", wav())}, data={"model": "default"})
        assert sent.status_code == 200
        assert (await http.post("/v1/listen", content=wav().read())).status_code == 200
    query = f"encoding=linear16&sample_rate={SAMPLE_RATE}"
    async with connect(f"ws://{server.address}/v1/listen?{query}", additional_headers=headers, proxy=None) as socket:
        await socket.send(PCM)
        await socket.send(json.dumps({"type": "CloseStream"}))
        async for _ in socket:
            pass
    for transport in ("webrtc", "websocket"):
        async with StreamingClient(server.address, key=key, transport=transport) as client:
            await client.send(PCM)
            await client.close()
    return 5


def test_each_key_has_its_audio_and_sessions_of_all_apis(served):
    sessions = asyncio.run(use_every_api(served, ACME))
    asyncio.run(use_every_api(served, INITECH))
    asyncio.run(use_every_api(served, INITECH))
    expected = {"acme": (SECONDS * sessions, sessions), "initech": (2 * SECONDS * sessions, 2 * sessions)}
    wait_for(lambda: counted(usage_of(served).json()) == expected)  # the other gateway counts ten times a second
    found = usage_of(served).json()
    assert found["object"] == "list" and ACME not in json.dumps(found) and INITECH not in json.dumps(found)


@pytest.mark.parametrize("key", ["", "wrong", ACME, USAGE[:-1]])
def test_only_the_usage_key_reads_it(served, key):
    refused = usage_of(served, key)
    assert refused.status_code == 401 and USAGE not in refused.text


@pytest.mark.parametrize("path", ["/v1/usage%0A", "/v1/usage%0a", "/v1/tokens%0A", "/metrics%0A", "/v1/usage%00"])
def test_a_path_with_a_line_break_is_none(served, path):
    headers = {"Authorization": f"Bearer {ACME}"}
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"http://{served.address}{path}", headers=headers, trust_env=False)
        assert answer.status_code == 404 and "initech" not in answer.text


def test_metrics_show_the_keys_to_the_operator_only(served):
    headers = {"Authorization": f"Bearer {ACME}"}
    told = httpx.get(f"http://{served.address}/metrics", headers=headers, trust_env=False).text
    assert "asr_sessions_total" in told and "asr_usage" not in told and "initech" not in told
    whole = httpx.get(f"http://127.0.0.1:{admin_ports[served.address]}/metrics", trust_env=False).text
    assert (
        'asr_usage_sessions_total{api="deepgram",key="initech"}' in whole and 'asr_usage_audio_seconds_total{key="acme"}' in whole
    )


def test_the_usage_key_opens_nothing_else(served):
    headers = {"Authorization": f"Bearer {USAGE}"}
    assert httpx.get(f"http://{served.address}/v1/models", headers=headers, trust_env=False).status_code == 401


def test_without_a_usage_key_nobody_reads_it(start_server):
    assert usage_of(start_server()).status_code == 404
