"""Requests that come too slowly lose their connection; health is told all the while."""

import asyncio
import contextlib
import socket
import time

import pytest

from benchmarks.servers import free_port
from server.errors import ClientError
from server.http import deadlines
from tests.conftest import RunningServer
from tests.virtual_time import run_in_its_own_time

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


def test_a_body_has_as_long_as_it_keeps_coming(monkeypatch):
    monkeypatch.setattr(deadlines, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(deadlines, "SLOWEST_BYTES_PER_SECOND", 1000)

    async def read(*messages: tuple[float, bytes, bool]) -> int:
        receive = deadlines.punctual(receiver(*messages))
        return sum([len((await receive())["body"]) for _ in messages])

    steady = [(0.06, bytes(100), True)] * 3
    assert run_in_its_own_time(read(*steady, (0.06, bytes(10), False))) == 310
    for name, messages in {
        "late": [(0.0, bytes(10), True), (0.2, bytes(10), False)],
        "early bytes are no credit": [(0.0, bytes(100_000), True), (0.2, bytes(10), False)],
        "too little": [(0.03, bytes(1), True)] * 5,
    }.items():
        with pytest.raises(ClientError, match="too slowly") as slow:
            run_in_its_own_time(read(*messages))
            pytest.fail(name)
        assert slow.value.code.http_status == 408
    assert run_in_its_own_time(read((0.0, bytes(10), False), (0.2, b"", False))) == 10, "behind its end there is no hurry"


def exchange(server: RunningServer, *pieces: bytes) -> bytes:
    """All that is answered until the server closes, or an answer is whole."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        answered = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in answered and (received := connection.recv(65_536)):
                answered += received
        return answered


MANY_SMALL_HEADERS = b"a:\r\n" * 50_000
ONE_LONG_HEADER = b"X: " + b"a" * 200_000


@pytest.mark.parametrize(
    "head",
    [b"GET /healthz HTTP/1.1\r\n" + MANY_SMALL_HEADERS, b"GET / HTTP/1.1\r\n" + ONE_LONG_HEADER, b"GET /" + b"a" * 200_000],
)
def test_a_head_without_an_end_is_refused_after_64_kib(served, head):
    """Heads of megabytes stopped the event loop for seconds, before any key was looked at."""
    assert exchange(served, head).startswith(b"HTTP/1.1 431 ") and served.get("/healthz").status_code == 200


def test_a_second_head_in_the_same_packet_is_bounded_too(served):
    first = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\n"
    answered = exchange(served, first, *[MANY_SMALL_HEADERS] * 3)
    assert answered.startswith(b"HTTP/1.1 ") and served.get("/healthz").status_code == 200


def test_what_is_no_request_is_refused_at_once(served):
    began = time.monotonic()
    assert exchange(served, bytes(range(128, 256))).startswith(b"HTTP/1.1 400 ")
    assert time.monotonic() - began < deadlines.HEAD_SECONDS / 2


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"])
def test_an_offer_of_another_protocol_is_left_and_the_body_is_read(served, offer, is_split):
    """Java's HTTP client sends one with every request."""
    body = b'{"model": "whisper-1"}'
    head = (
        b"POST /v1/tokens HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
        + offer
        + b"Content-Length: %d\r\n\r\n" % len(body)
    )
    pieces = (head, body) if is_split else (head + body,)
    assert exchange(served, *pieces).startswith(b"HTTP/1.1 200 ")


def test_an_offer_of_websocket_stays():
    for name in (b"websocket", b"WebSocket", b"h2c, websocket"):
        request = b"GET /ws HTTP/1.1\r\nUpgrade: " + name + b"\r\n\r\nrest"
        assert deadlines.without_other_upgrades(request) == request
    other = b"GET / HTTP/1.1\r\nHost: a\r\nupgrade: h2c\r\nX: 1\r\n\r\nUpgrade: h2c in a body"
    assert deadlines.without_other_upgrades(other) == other.replace(b"upgrade: h2c\r\n", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/webrtc",
        "/whip/stage",
        "/v1/realtime/calls",
        "/v1/realtime/client_secrets",
        "/v1/audio/transcriptions",
        "/v1/listen",
        "/v1/tokens",
    ],
)
def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_no_traceback(served, path):
    host, port = served.address.split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with socket.create_connection((host, int(port))) as leaving:
        leaving.sendall(head.encode())
        time.sleep(0.1)  # for the server to begin to read: nothing tells when it has
    assert served.get("/healthz").status_code == 200
    assert "Traceback" not in served.log.read_text() and "Exception in ASGI" not in served.log.read_text()
