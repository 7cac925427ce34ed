"""Requests that come too slowly lose their connection; health is told all the while."""

import asyncio
import contextlib
import socket
import time

import pytest

from server.errors import ClientError
from server.http import deadlines
from tests.conftest import RunningServer, free_port

CONNECTIONS = 501


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime", ASR_API_KEYS="sk-0123456789abcdef")


def test_half_sent_requests_take_nothing_from_health(served):
    """An hour of them took it away. Heads and bodies, on the port that everybody reaches."""
    host, port = served.address.split(":")
    half_sent = b"POST /webrtc HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{"
    beginnings = [b"GET /healthz HTTP/1.1\r\nX: ", half_sent, b""]
    with contextlib.ExitStack() as opened:
        for number in range(CONNECTIONS):
            slow = opened.enter_context(socket.create_connection((host, int(port))))
            slow.sendall(beginnings[number % len(beginnings)])
        for _ in range(20):
            began = time.monotonic()
            assert served.get("/healthz").status_code == 200
            assert time.monotonic() - began < 1.0
        assert slow.recv(100) == b"", "a connection on which no head came is closed"
        assert time.monotonic() - began < deadlines.HEAD_SECONDS + 5


def test_the_admin_port_tells_health_without_a_key_and_nothing_else(start_server):
    port = free_port()
    server = start_server(ASR_TARGET="onnxruntime", ASR_API_KEYS="sk-0123456789abcdef", ASR_ADMIN_PORT=str(port))
    admin = RunningServer(f"127.0.0.1:{port}", server.process, server.log)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert admin.get(path).status_code == 200
    assert admin.get("/").status_code == 404 and admin.get("/v1/models").status_code == 404
    assert server.get("/metrics").status_code == 401


def receiver(*messages: tuple[float, bytes, bool]):
    """Each comes so many seconds after the one before."""
    rest = iter(messages)

    async def receive() -> dict:
        seconds, body, more = next(rest)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": body, "more_body": more}

    return receive


def test_a_body_has_its_time_and_more_for_what_comes(monkeypatch):
    monkeypatch.setattr(deadlines, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(deadlines, "SLOWEST_BYTES_PER_SECOND", 1000)

    async def read(*messages: tuple[float, bytes, bool]) -> int:
        receive = deadlines.punctual(receiver(*messages))
        return sum([len((await receive())["body"]) for _ in messages])

    assert asyncio.run(read((0.0, bytes(200), True), (0.15, bytes(10), False))) == 210
    with pytest.raises(ClientError, match="too slowly") as slow:
        asyncio.run(read((0.0, bytes(10), True), (0.15, bytes(10), False)))
    assert slow.value.code.http_status == 408
    assert asyncio.run(read((0.0, bytes(10), False), (0.15, b"", False))) == 10, "behind its end there is no hurry"
