"""A server in processes of its own behind one ASGI app, as a replica with several gateways has it."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from benchmarks.servers import free_port
from moonshine_client.client import StreamingClient
from server import settings
from server.ray.child_server import ChildServer, headers_of, target_of
from tests.conftest import ENGINES, PROJECT

SCOPE = {"path": "/a b", "raw_path": b"/a%20b", "query_string": b"x=1", "client": ("192.0.2.9", 5)}
GONE_SECONDS = 20.0


def test_what_is_handed_on_is_what_was_asked_and_who_asked():
    headers = [
        (b"host", b"asr.example"),
        (b"connection", b"upgrade"),
        (b"sec-websocket-key", b"k"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-asr-handed-on", b"guessed"),
    ]
    assert target_of(SCOPE) == b"/a%20b?x=1" and target_of(SCOPE | {"query_string": b""}) == b"/a%20b"
    told = headers_of(SCOPE | {"headers": headers}, "secret")
    own = [(b"x-forwarded-for", b"192.0.2.9"), (b"x-asr-handed-on", b"secret")]
    assert told == [(b"host", b"asr.example"), *own], "nobody says that of himself"


PARENT = """
import asyncio
from server import settings
from server.ray.child_server import ChildServer

async def receive():
    return {"type": "lifespan.startup"}

async def send(message):
    pass

asyncio.run(ChildServer(settings.load({}), {"ASR_WORKERS": "2"}).app({"type": "lifespan"}, receive, send))
"""


@pytest.mark.server
def test_a_parent_that_is_killed_leaves_no_server_behind():
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=PROJECT) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until(lambda: children.read_text())
        server = Path(f"/proc/{children.read_text().strip()}")
        parent.kill()
    until(lambda: not server.exists())


def until(holds: Callable[[], object]) -> None:
    """Other processes offer nothing to wait on."""
    deadline = time.monotonic() + GONE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.asynccontextmanager
async def serving(child: ChildServer) -> AsyncIterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(child.app, host="127.0.0.1", port=port, ws="websockets-sansio", log_level="error"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the child did not start"
        await asyncio.sleep(0.05)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@pytest.mark.server
@pytest.mark.engine
def test_every_way_in_leads_through_and_the_end_gives_finals(built, recordings, monkeypatch):
    built("fp32")
    own = {
        "ASR_ENGINE_DIR": str(ENGINES),
        "MOONSHINE_PRECISION": "fp32",
        "ASR_TARGET": "onnxruntime",
        "ASR_WORKERS": "2",
        "ASR_DRAIN_SECONDS": "20",
        "ASR_REPLICA": "inner",
        "ASR_MAX_SESSIONS_PER_ADDRESS": "3",
    }
    child, audio = ChildServer(settings.load(own), own), recordings["short"].samples

    async def run() -> None:
        async with serving(child) as address:
            child.check()
            for transport in ("webrtc", "websocket"):
                async with StreamingClient(address, transport=transport) as client:
                    await client.send(audio.tobytes())
                    assert "fail better" in (await client.close())["text"].lower()
            async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
                file = (PROJECT / "samples" / "short.wav").read_bytes()
                heard = await http.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": file})
                assert "fail better" in heard.json()["text"].lower() and heard.headers["x-asr-replica"] == "inner"
                assert (await http.post("/v1/tokens", headers={"Origin": "https://elsewhere.example"})).status_code == 403
                assert (await http.post("/v1/tokens", headers={"Origin": f"http://{address}"})).status_code == 200
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{address}/ws", origin="https://elsewhere.example", proxy=None)
            assert refused.value.response.status_code == 403 and b"forbidden_origin" in refused.value.response.body
            async with StreamingClient(address, transport="websocket", resume_seconds=0) as client:
                await client.send(audio.tobytes())
                draining = asyncio.create_task(child.drain())
                while not child.counts().is_draining:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
                assert (await client.close())["audio_ms"] == len(audio) // 16
                await asyncio.wait_for(draining, GONE_SECONDS)
            with pytest.raises(RuntimeError, match="ended"):
                child.check()

    asyncio.run(run())
