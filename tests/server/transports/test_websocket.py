"""The data channel's messages over a WebSocket."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from server.sessions.rate_limit import BURST_SECONDS, MESSAGES_A_SECOND
from server.transports import websocket_frames
from tests.conftest import RunningServer, Speech
from tests.moonshine_client import counting
from tests.moonshine_client.test_resuming import running

FRAME_BYTES = SAMPLE_RATE // 50 * 2


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime", MAX_BUFFER_SECONDS="10")


def opened(server: RunningServer) -> connect:
    return connect(f"ws://{server.address}/ws", proxy=None)


async def said(socket: ClientConnection) -> AsyncIterator[dict]:
    """Messages until the server closes."""
    try:
        while True:
            yield json.loads(await socket.recv())
    except ConnectionClosed:
        return


async def speak(server: RunningServer, samples: np.ndarray, **options: object) -> list[dict]:
    async with opened(server) as socket:
        await socket.send(json.dumps({"op": "init", "sid": "a"} | options))
        pcm = samples.tobytes()
        for start in range(0, len(pcm), FRAME_BYTES):
            await socket.send(pcm[start : start + FRAME_BYTES])
        await socket.send('{"op":"close"}')
        return [message async for message in said(socket)]


def test_a_stream_from_init_to_final(served, recordings: dict[str, Speech]):
    messages = asyncio.run(speak(served, recordings["short"].samples, words=True))
    assert messages[0]["op"] == "ready" and messages[-1]["op"] == "final"
    assert word_error_rate([recordings["short"].text], [messages[-1]["text"]]) <= 10
    stable = [message["text"][: message["stable"]] for message in messages[1:]]
    assert all(after.startswith(before) for before, after in zip(stable, stable[1:], strict=False))


def test_who_sends_faster_than_it_is_transcribed_is_read_more_slowly_and_loses_nothing(served, recordings: dict[str, Speech]):
    messages = asyncio.run(speak(served, recordings["mid"].samples))  # 44 s at once, where 10 s may wait
    assert messages[-1]["op"] == "final", messages[-1]
    assert word_error_rate([recordings["mid"].text], [messages[-1]["text"]]) <= 10


def test_a_bad_message_is_answered_by_name_and_the_socket_is_closed(served):
    async def run() -> list[dict]:
        async with opened(served) as socket:
            await socket.send("no JSON")
            return [message async for message in said(socket)]

    (message,) = asyncio.run(run())
    assert (message["op"], message["reason"]) == ("error", "bad_message")


def test_a_full_server_refuses_before_it_accepts_and_takes_the_next_one_once_somebody_left(served):
    async def run() -> int:
        async with opened(served) as first, opened(served) as second:
            for socket in (first, second):
                await socket.send('{"op":"init"}')
                assert json.loads(await socket.recv())["op"] == "ready"
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{served.address}/ws", proxy=None)
            response = refused.value.response
            assert response.headers["Retry-After"] and json.loads(response.body)["reason"] == "server_full"
        for _ in range(100):
            try:
                async with opened(served) as socket:
                    await socket.send('{"op":"init"}')
                    assert json.loads(await socket.recv())["op"] == "ready"
                    return response.status_code
            except InvalidStatus:
                await asyncio.sleep(0.05)  # another process hears of the end in its own time
        raise TimeoutError("no place was given back")

    assert asyncio.run(run()) == 503


def test_a_flood_of_tiny_messages_is_read_at_its_pace_and_keeps_nobody_waiting():
    async def run() -> float:
        async with running() as server, opened(server) as flooding, opened(server) as other, httpx.AsyncClient() as http:
            await flooding.send('{"op":"init"}')
            assert json.loads(await flooding.recv())["op"] == "ready"
            began = time.monotonic()
            flood = asyncio.create_task(send_for_ever(flooding, bytes(2)))
            await other.send('{"op":"init"}')
            await other.send(counting.sound(3))
            await other.send('{"op":"close"}')
            final = [message async for message in said(other)][-1]
            assert final["op"] == "final" and final["text"] == counting.text(3)
            taken = 0.0
            for _ in range(20):
                while taken < BURST_SECONDS * MESSAGES_A_SECOND:  # from then on it is held back
                    taken = await messages_taken(http, server.address)
                taken = await messages_taken(http, server.address)
            flood.cancel()
            flooding.transport.abort()
            return taken / (BURST_SECONDS + time.monotonic() - began)

    assert 0 < asyncio.run(asyncio.wait_for(run(), 20.0)) <= 1.1 * MESSAGES_A_SECOND


async def messages_taken(http: httpx.AsyncClient, address: str) -> float:
    """Of one sample each."""
    told = (await http.get(f"http://{address}/metrics")).text
    found = re.search(r"^asr_audio_seconds_total (\S+)", told, re.MULTILINE)
    return float(found[1]) * SAMPLE_RATE - len(counting.sound(3)) // 2


async def send_for_ever(socket: ClientConnection, message: bytes) -> None:
    while True:
        for _ in range(100):
            await socket.send(message)
        await asyncio.sleep(0)


def test_a_server_that_shuts_down_gives_the_final(start_server, recordings: dict[str, Speech]):
    server = start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime", MAX_BUFFER_SECONDS="10")

    async def run() -> list[dict]:
        async with opened(server) as socket:
            await socket.send('{"op":"init"}')
            pcm = recordings["short"].samples.tobytes()
            for start in range(0, len(pcm), FRAME_BYTES * 10):
                await socket.send(pcm[start : start + FRAME_BYTES * 10])
            assert json.loads(await socket.recv())["op"] == "ready"
            await socket.recv()  # an interim: the audio has been heard
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            messages = [message async for message in said(socket)]
            assert await stopping == 0
            return messages

    final = asyncio.run(run())[-1]
    assert final["op"] == "final" and final["text"]


# What a stranger may send


def raw_socket(server: RunningServer) -> socket.socket:
    host, port = server.address.split(":")
    opened = socket.create_connection((host, int(port)), timeout=30)
    opened.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert opened.recv(12) == b"HTTP/1.1 101"
    return opened


MASK = bytes(4)
BEGIN, EMPTY_MORE, PING = b"\x02\x80" + MASK, b"\x00\x80" + MASK, b"\x89\x80" + MASK


@pytest.mark.parametrize("flood", [BEGIN + EMPTY_MORE * 500_000, PING * 500_000], ids=["fragments", "pings"])
def test_a_flood_of_tiny_frames_keeps_nobody_else_waiting(served, flood):
    """The first of them stopped the event loop for seconds, and its watchdog ended the process."""
    with raw_socket(served) as attacker:
        attacker.setblocking(False)
        longest, sent = 0.0, 0
        deadline = time.monotonic() + 20
        while sent < len(flood) and time.monotonic() < deadline:
            try:
                sent += attacker.send(flood[sent : sent + 200_000])
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                break  # refused
            began = time.monotonic()
            assert served.get("/healthz").status_code == 200
            longest = max(longest, time.monotonic() - began)
    assert longest < 1.0
    assert flood.startswith(PING) or sent < len(flood), "fragments are read no further than their bound"
    assert served.process.poll() is None and "stalled" not in served.log.read_text()


def test_a_message_larger_than_its_path_takes_is_refused_by_its_first_bytes(served):
    with raw_socket(served) as client:
        client.sendall(b"\x82\xff" + (websocket_frames.MESSAGE_BYTES + 1).to_bytes(8, "big") + MASK)
        assert b"\x03\xf1" in all_of(client), "close code 1009"


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    answered = b""
    while received := client.recv(4096):
        answered += received
    return answered


@pytest.mark.parametrize("path", ["/", "/v1/listen/more", "/v3/listen", "/webrtc"])
def test_a_path_without_a_websocket_says_so_and_names_those_there_are(served, path):
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(open_and_leave(f"ws://{served.address}{path}"))
    response = refused.value.response
    assert (
        response.status_code == 404
        and "/ws, /v1/realtime, /v1/listen, /v2/listen, /v1/telephone/jambonz" in json.loads(response.body)["error"]["message"]
    )


async def open_and_leave(address: str) -> None:
    async with connect(address, proxy=None):
        pass


def test_text_that_is_no_utf8_is_refused_by_name_and_leaves_no_traceback(served):
    with raw_socket(served) as client:
        client.sendall(b"\x81\x82" + MASK + b"\xff\xfe")
        assert b"\x03\xefa text message must be UTF-8" in all_of(client), "close code 1007"
    assert "Traceback" not in served.log.read_text()
