"""Messages arrive as they were sent, however the network cuts them, directly as by ASGI."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from server.transports.websocket_frames import DIRECT, PIECE_BYTES, BoundedWebSocket, whole_messages

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
Message = str | bytes


class FakeTransport(asyncio.Transport):
    """Holds what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)})
        self.written, self.is_reading, self._is_closing = b"", True, False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


@dataclass
class Application:
    """Accepts a socket and keeps what comes."""

    is_direct: bool
    messages: list[Message] = field(default_factory=list)
    has_left: bool = False

    async def __call__(self, scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if self.is_direct:
            scope["extensions"][DIRECT].deliver_to(self.messages.append)
        while (event := await receive())["type"] != "websocket.disconnect":
            self.messages.append(event["text"] if event.get("text") is not None else event["bytes"])
        self.has_left = True


def connected(application: Application, early: bytes = b"") -> tuple[BoundedWebSocket, FakeTransport]:
    """A socket to the application, over which the client sends its head, and `early` with it."""
    config = uvicorn.Config(application, ws=BoundedWebSocket, ws_per_message_deflate=False, lifespan="off", log_level="critical")
    config.load()
    protocol, transport = BoundedWebSocket(config, ServerState(), {}), FakeTransport()
    protocol.connection_made(transport)
    protocol.data_received(HEAD + early)
    return protocol, transport


async def settle() -> None:
    """Let the application run until it waits."""
    for _ in range(100):
        await asyncio.sleep(0)


async def received(application: Application, pieces: Sequence[bytes], early: bytes = b"") -> list[Message]:
    protocol, transport = connected(application, early)
    await settle()
    for piece in pieces:
        protocol.data_received(piece)
        await settle()
    protocol.connection_lost(None)
    await settle()
    assert application.has_left and b"101 Switching" in transport.written
    return application.messages


def frames_of(message: Message, cuts: Sequence[int], ping: bool) -> bytes:
    """A message in as many frames as it is cut into, a ping before the last."""
    payload = message.encode() if isinstance(message, str) else message
    edges = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    wire = b""
    for number, (begin, end) in enumerate(zip(edges, edges[1:], strict=False)):
        is_last = number == len(edges) - 2
        if ping and is_last:
            wire += Frame(Opcode.PING, b"p").serialize(mask=True)
        kind = Opcode.CONT if number else Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
        wire += Frame(kind, payload[begin:end], fin=is_last).serialize(mask=True)
    return wire


MESSAGES = st.lists(
    st.tuples(
        st.one_of(
            st.text(max_size=40), st.binary(max_size=300), st.binary(min_size=120, max_size=130).map(lambda data: data * 70)
        ),
        st.one_of(st.just(()), st.lists(st.integers(0, 40), max_size=2)),
        st.booleans(),
    ),
    max_size=8,
)


@pytest.mark.parametrize("is_direct", [True, False], ids=["directly", "by ASGI"])
@given(MESSAGES, st.lists(st.integers(1, 700), max_size=12), st.integers(0, 2))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(is_direct, sent, lengths, early):
    wires = [frames_of(*each) for each in sent]
    rest, pieces = b"".join(wires[early:]), []
    for length in lengths:
        pieces.append(rest[:length])
        rest = rest[length:]
    pieces.append(rest)
    found = asyncio.run(received(Application(is_direct), [piece for piece in pieces if piece], b"".join(wires[:early])))
    assert found == [message for message, _, _ in sent]


def test_nothing_is_read_while_a_client_is_held_back_and_nothing_is_lost():
    async def run() -> None:
        application = Application(is_direct=True)
        protocol, transport = connected(application)
        await settle()
        protocol.data_received(frames_of(b"one", (), ping=False))
        protocol.hold_back()
        protocol.data_received(frames_of(b"two", (), ping=False))  # was on its way
        protocol.data_received(frames_of(b"3" * 3 * PIECE_BYTES, (), ping=True))
        await settle()
        assert application.messages == [b"one"] and not transport.is_reading
        protocol.go_on()
        await settle()
        assert application.messages == [b"one", b"two", b"3" * 3 * PIECE_BYTES] and transport.is_reading

    asyncio.run(run())


def test_text_is_written_at_once_until_the_socket_closes():
    async def run() -> None:
        protocol, transport = connected(Application(is_direct=True))
        await settle()
        assert protocol.write_text("täglich")
        assert transport.written.endswith(Frame(Opcode.TEXT, "täglich".encode()).serialize(mask=False))
        protocol.data_received(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
        assert not protocol.write_text("too late")

    asyncio.run(run())


def test_nothing_is_written_to_a_client_that_has_closed_with_its_last_message():
    async def run() -> list[bool]:
        application, written = Application(is_direct=True), []
        protocol, _ = connected(application)
        await settle()
        protocol.deliver_to(lambda message: written.append(protocol.write_text("an answer")))
        protocol.data_received(frames_of(b"audio", (), ping=False) + Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
        return written

    assert asyncio.run(run()) == [False]


@pytest.mark.parametrize(
    "wire",
    [
        b"\x82",
        Frame(Opcode.BINARY, b"ab").serialize(mask=False),
        Frame(Opcode.TEXT, b"\xff").serialize(mask=True),
        Frame(Opcode.BINARY, b"ab", fin=False).serialize(mask=True),
        Frame(Opcode.PING, b"").serialize(mask=True),
        Frame(Opcode.BINARY, b"ab").serialize(mask=True)[:-1],
        Frame(Opcode.BINARY, b"ab").serialize(mask=True) + b"\x82\x80\x00",
        b"\xc2\x80\x00\x00\x00\x00",
        b"\x82\xff" + bytes(12),
    ],
    ids=["cut", "not masked", "not UTF-8", "fragment", "ping", "short", "begins another", "reserved bit", "length of 64 bits"],
)
def test_all_but_whole_messages_is_left_to_the_library(wire: bytes):
    assert whole_messages(wire) is None
