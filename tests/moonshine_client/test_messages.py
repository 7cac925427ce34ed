"""Both clients send as much audio in a message as the server asks for, and hold none back for long."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

from moonshine_client import client as client_module
from moonshine_client.client import StreamingClient
from tests.conftest import PROJECT
from tests.virtual_time import run_in_its_own_time

PIECE_SAMPLES = 320
CASES = [
    (20, [320] * 8 + ["flush", 320, 320, "close"]),
    (60, [960, 960, 640, "flush", 320, 320, "close"]),
    (100, [1600, 960, "flush", 320, 320, "close"]),
]
TEXT = {"text": "", "stable": 0, "offset": 0, "segments": [], "audio_ms": 0}
ANSWERS = {"flush": {"op": "flushed"} | TEXT, "close": {"op": "final"} | TEXT}


class FakeSocket:
    """A socket to a server that asks for so much audio in a message."""

    unsent_bytes = 0
    frame_ms = 0
    received: list[str | int]

    def __init__(self, url: str, headers: dict, take: Callable[[str], None], lose: Callable[[], None]):
        self._take, type(self).received = take, []

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def send(self, message: str | bytes) -> bool:
        if isinstance(message, bytes):
            self.received.append(len(message) // 2)
            return True
        op = json.loads(message)["op"]
        if op != "init":
            self.received.append(op)
        answer = ANSWERS.get(op, {"op": "ready", "frame_ms": self.frame_ms})
        asyncio.get_running_loop().call_soon(self._take, json.dumps(answer))
        return True


async def speak(frame_ms: int) -> list[str | int]:
    """Send pieces of 20 ms; returns what the server receives."""
    async with StreamingClient("any", transport="websocket") as client:
        for _ in range(8):
            await client.send(bytes(2 * PIECE_SAMPLES))
        await client.flush()
        await client.send(bytes(2 * PIECE_SAMPLES))
        await asyncio.sleep(3 * frame_ms / 1000)  # nothing more comes in time
        await client.send(bytes(2 * PIECE_SAMPLES))
        await client.close()
    return FakeSocket.received


@pytest.mark.parametrize(("frame_ms", "expected"), CASES)
def test_messages_carry_what_the_server_asks_for(monkeypatch, frame_ms, expected):
    monkeypatch.setattr(client_module, "Socket", FakeSocket)
    monkeypatch.setattr(FakeSocket, "frame_ms", frame_ms)
    assert run_in_its_own_time(speak(frame_ms)) == expected


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.parametrize(("frame_ms", "expected"), CASES)
def test_the_javascript_client_does_the_same(tmp_path, frame_ms, expected):
    module = tmp_path / "client.mjs"
    shutil.copy(PROJECT / "server" / "web" / "moonshine-client.js", module)
    command = ["node", PROJECT / "tests" / "data" / "messages.mjs", module, str(frame_ms)]
    assert json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == expected
