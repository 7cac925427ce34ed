"""What becomes of a connection: reused, upgraded, refused early. A small app behind the server's own protocols."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvicorn

from server.http import deadlines
from server.http.deadlines import PunctualHttp, PunctualLoop
from server.transports.websocket_frames import BoundedWebSocket
from tests.server.test_tls import certificate_files

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
MASK = bytes(4)


async def app(scope, receive, send) -> None:
    """Answers without reading a body; a WebSocket gets its messages back."""
    if scope["type"] == "http" and scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(1 << 24)})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"full"})
    elif scope["type"] == "websocket":
        await receive()
        await asyncio.sleep(0.2 if scope["path"] == "/slow" else 0)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})


def play(scenario: Callable[[asyncio.StreamReader, asyncio.StreamWriter, uvicorn.Server], Awaitable[None]], **tls: Path) -> None:
    async def run() -> None:
        config = uvicorn.Config(app, port=0, http=PunctualHttp, ws=BoundedWebSocket, log_level="error", lifespan="off", **tls)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
        async with asyncio.timeout(20):
            with contextlib.closing(writer):
                await scenario(reader, writer, server)
        server.should_exit = True
        await asyncio.wait_for(serving, 10)

    with asyncio.Runner(loop_factory=PunctualLoop) as runner:
        runner.run(run())


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch):
    monkeypatch.setattr(deadlines, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(deadlines, "HANDSHAKE_SECONDS", 0.3)


def test_a_tls_handshake_that_does_not_begin_is_given_up(tmp_path):
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: uvicorn.Server) -> None:
        assert await reader.read() == b""

    cert, key = certificate_files(tmp_path)
    play(scenario, ssl_certfile=cert, ssl_keyfile=key)


def test_a_websocket_on_a_reused_connection_lives_on():
    """As proxies open them; the deadline of the next head used to end it."""

    async def scenario(reader, writer, server) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"full")).startswith(b"HTTP/1.1 503 ")
        writer.write(UPGRADE + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await asyncio.sleep(2 * deadlines.HEAD_SECONDS)
        writer.write(b"\x82\x82" + MASK + b"hi")
        assert await reader.readexactly(4) == b"\x82\x02hi"

    play(scenario)


def test_who_still_uploads_gets_the_answer_that_was_sent_before_the_body_was_read():
    async def scenario(reader, writer, server) -> None:
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
        assert (await reader.readuntil(b"full")).startswith(b"HTTP/1.1 503 ")
        with contextlib.suppress(ConnectionError):
            for _ in range(9):
                writer.write(bytes(100_000))
                await writer.drain()
        writer.write_eof()
        assert await reader.read() == b"", "there is one answer"

    play(scenario)


@pytest.mark.parametrize(
    "request_head",
    [
        UPGRADE.replace(b"GET", b"POST") + b"\r\n",
        UPGRADE + b"Content-Length: 0\r\n\r\n",
        UPGRADE + b"Cookie: " + b"a" * 100_000 + b"\r\n\r\n",
        UPGRADE + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
    ],
    ids=["POST", "a body", "a long header", "many headers"],
)
def test_what_is_no_websocket_handshake_is_answered_and_nothing_of_it_is_held(request_head):
    async def scenario(reader, writer, server) -> None:
        writer.write(request_head)
        answered = await reader.read()
        assert answered.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 101 ")) or b" 4" in answered[:13]
        assert not server.server_state.connections

    play(scenario)


def test_frames_before_the_handshake_is_answered_break_nothing():
    async def scenario(reader, writer, server) -> None:
        writer.write(UPGRADE.replace(b"/ws", b"/slow") + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"\x81\x82" + MASK + b"\xff\xfe")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    play(scenario)


def test_a_client_that_does_not_read_its_answers_loses_the_connection(monkeypatch):
    """Such connections used to stay for ever, with their answers in memory; no key was needed."""
    monkeypatch.setattr(deadlines, "READ_SECONDS", 0.3)
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda *said, **more: errors.append(said))
    errors: list = []

    async def scenario(reader, writer, server) -> None:
        reader._transport.pause_reading()
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 10)
        while not server.server_state.connections:  # noqa: ASYNC110 - uvicorn has a set, no event
            await asyncio.sleep(0.01)
        while server.server_state.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while server.server_state.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    play(scenario)
    assert not errors, "nothing was written to a connection that had gone"


def test_a_client_that_reads_slowly_keeps_its_connection(monkeypatch):
    monkeypatch.setattr(deadlines, "READ_SECONDS", 0.5)

    async def scenario(reader, writer, server) -> None:
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = 0
        while piece := await reader.read(1 << 20):
            received += len(piece)
            await asyncio.sleep(0.02)
        assert received > 1 << 24

    play(scenario)
