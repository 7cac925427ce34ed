"""Asterisk's AudioSocket: its frames without I/O, and calls over real connections."""

import asyncio
import json
import struct
import uuid

import httpx
import numpy as np
import pytest

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.servers import free_port
from server.apis.audiosocket import connection
from server.apis.audiosocket.session import CallSession
from server.errors import Code
from server.settings import SessionLimits
from tests.conftest import RunningServer, Speech
from tests.server.apis.deepgram.test_deepgram import TOKENIZER
from tests.server.apis.scripted_client import ScriptedClient

HANG_UP, NAME, DIGIT, SLIN_8, SLIN_16, SLIN_96, ERROR = 0x00, 0x01, 0x03, 0x10, 0x12, 0x17, 0xFF
CALL = uuid.UUID("5d1c8d4e-0a4b-4f0e-9d83-1f2f3a4b5c6d")


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


class Client(ScriptedClient):
    """Asterisk, and one reader of the words."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER)
        self.names: list[str] = []
        self.session = CallSession(self.seat, SessionLimits(), self.publish)

    def publish(self, name: str) -> None:
        self.names.append(name)
        self.session.add_reader(self.take)

    def receive(self, kind: int, payload: bytes = b"") -> None:
        self.session.on_audio(bytes([kind]) + payload, self.now)

    def send_audio(self, pcm: bytes) -> None:
        self.receive(SLIN_16, pcm)


def test_a_call_is_read_by_its_uuid_and_ends_with_the_hang_up():
    client = Client()
    client.receive(NAME, CALL.bytes)
    client.sound(1.0)
    client.receive(DIGIT, b"5")
    client.receive(0x42, b"what Asterisk may send one day")
    client.receive(HANG_UP)
    client.answer_all()
    assert client.names == [str(CALL)] and client.messages[-1]["op"] == "final" and client.ended == 1


def test_a_call_whose_rate_changes_goes_on():
    client = Client()
    client.receive(NAME, CALL.bytes)
    for kind, rate in ((SLIN_8, 8_000), (SLIN_16, 16_000), (SLIN_8, 8_000)):
        client.receive(kind, bytes(2 * rate))
    client.receive(HANG_UP)
    client.answer_all()
    assert client.seat.audio_seconds == pytest.approx(3.0, abs=0.02) and len(client.seat.streams) == 1


WRONG = {
    "audio before the uuid": [(SLIN_8, bytes(320))],
    "a short uuid": [(NAME, bytes(15))],
    "no uuid": [(NAME, b"")],
    "two uuids": [(NAME, CALL.bytes), (NAME, CALL.bytes)],
    "96 kHz": [(NAME, CALL.bytes), (SLIN_96, bytes(3840))],
}


@pytest.mark.parametrize("frames", WRONG.values(), ids=WRONG)
def test_what_cannot_be_ends_the_call(frames):
    client = Client()
    for kind, payload in frames:
        client.receive(kind, payload)
    assert client.ended == 1 and client.seat.ended[0] in set(Code) and client.seat.audio_seconds == 0


def test_an_error_of_asterisk_and_half_a_sample_lose_nothing():
    client = Client()
    client.receive(NAME, CALL.bytes)
    client.receive(SLIN_8, bytes(321))
    client.receive(SLIN_8, bytes(319))
    client.receive(ERROR, b"\x01")
    client.answer_all()
    assert client.seat.audio_seconds == pytest.approx(0.04, abs=0.01) and client.ended == 1


# Over a connection


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(start_server, port) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime", ASR_AUDIOSOCKET_PORT=str(port))


async def send(port: int, *frames: bytes) -> None:
    """Send frames and wait until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for each in frames:
        writer.write(each)
        await writer.drain()
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


def final_of(served: RunningServer, name: object) -> str:
    with httpx.stream("GET", f"http://{served.address}/v1/channels/{name}/events", trust_env=False, timeout=30) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    message = json.loads(lines[-1].removeprefix("data: "))
    assert message["op"] == "final"
    return message["text"]


@pytest.mark.parametrize("hangs_up", [True, False], ids=["hang-up", "connection that breaks"])
def test_the_words_of_a_call_are_there_to_the_end(served, port, recordings: dict[str, Speech], hangs_up):
    speech, name = recordings["short"], uuid.uuid4()
    pcm = speech.samples[::2].astype(np.int16).tobytes()
    frames = [frame(NAME, name.bytes), *(frame(SLIN_8, pcm[place : place + 320]) for place in range(0, len(pcm), 320))]

    async def run() -> None:
        if hangs_up:
            await send(port, *frames, frame(HANG_UP))
            return
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.writelines([*frames, b"\x10\xff\xff" + bytes(100)])  # a length of 65,535, and then nothing
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    asyncio.run(run())
    for _ in range(100):  # the connection's end reaches the server by itself
        if httpx.get(f"http://{served.address}/v1/channels/{name}/events", trust_env=False).status_code == 200:
            break
    assert word_error_rate([speech.text], [final_of(served, name)]) <= 25


def test_a_frame_that_does_not_come_whole_ends_its_call_and_no_other(monkeypatch):
    """Lengths of 65,535 that hang; time is the test's."""
    monkeypatch.setattr(connection, "FRAME_SECONDS", 0.01)

    class Seat:
        def __init__(self) -> None:
            self.frames: list[bytes] = []

        def receive_audio(self, audio: bytes) -> None:
            self.frames.append(audio)

        async def until_ready(self) -> None:
            pass

    async def run(data: bytes) -> list[bytes]:
        reader, seat = asyncio.StreamReader(), Seat()
        reader.feed_data(data)
        await asyncio.wait_for(connection.read(reader, seat), 10)  # type: ignore[arg-type]
        return seat.frames

    whole = frame(NAME, CALL.bytes)
    assert asyncio.run(run(whole + b"\x10\xff\xff" + bytes(100))) == [b"\x01" + CALL.bytes]
    assert asyncio.run(run(whole + b"\x10")) == [b"\x01" + CALL.bytes]
    assert asyncio.run(run(b"")) == []
