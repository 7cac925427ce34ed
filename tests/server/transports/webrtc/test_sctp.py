"""Messages arrive whole and in order, and acknowledgements are held back for a second packet, and no longer than they may be."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCDataChannelParameters, RTCPeerConnection
from aiortc.rtcsctptransport import RTCSctpTransport
from hypothesis import given
from hypothesis import strategies as st

from server.transports.webrtc import sctp
from tests.virtual_time import run_in_its_own_time

MESSAGES = 200
MOST_LOOKS, LOOK_SECONDS = 500, 0.01


async def exchange(count: int, words: int) -> list[bytes]:
    """Send so many messages over a data channel of this process, each when the one before has come; returns what came."""
    first, second = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    channel, received, came = first.createDataChannel("audio"), [], asyncio.Event()

    @second.on("datachannel")
    def on_channel(other) -> None:
        @other.on("message")
        def on_message(message: bytes) -> None:
            received.append(message)
            came.set()

    opened = asyncio.Event()
    channel.on("open", opened.set)
    await first.setLocalDescription(await first.createOffer())
    await second.setRemoteDescription(first.localDescription)
    await second.setLocalDescription(await second.createAnswer())
    await first.setRemoteDescription(second.localDescription)
    await opened.wait()
    for number in range(count):
        came.clear()
        channel.send(number.to_bytes(4, "little") * words)
        await came.wait()
    for _ in range(MOST_LOOKS):  # aiortc tells of the last acknowledgement by nothing but this
        if first.sctp._flight_size:
            await asyncio.sleep(LOOK_SECONDS)
    assert first.sctp._flight_size == 0, "the last packet is acknowledged, too"
    await asyncio.gather(first.close(), second.close())
    return received


@pytest.mark.parametrize(
    ("transport", "words", "least", "most"),
    [
        (RTCSctpTransport, 160, MESSAGES, 2 * MESSAGES),
        (sctp.PatientSctpTransport, 160, MESSAGES // 4, MESSAGES // 2),
        (sctp.PatientSctpTransport, 290, MESSAGES // 2, MESSAGES * 3 // 4),
    ],
    ids=["aiortc", "small packets", "full packets"],
)
def test_one_acknowledgement_answers_two_full_packets(monkeypatch, transport, words, least, most):
    sent = []
    acknowledge = RTCSctpTransport._send_sack

    async def count(self: RTCSctpTransport) -> None:
        sent.append(self)
        await acknowledge(self)

    monkeypatch.setattr(RTCSctpTransport, "_send_sack", count)
    monkeypatch.setattr("aiortc.rtcpeerconnection.RTCSctpTransport", transport)
    received = asyncio.run(exchange(MESSAGES, words))
    assert received == [number.to_bytes(4, "little") * words for number in range(MESSAGES)]
    assert least <= len(sent) <= most, f"{len(sent)} acknowledgements of {MESSAGES} packets"


@pytest.mark.parametrize("trouble", ["_sack_misordered", "_sack_duplicates"])
def test_what_is_missing_or_came_twice_is_said_at_once(monkeypatch, trouble):
    sent = []

    async def note(self: RTCSctpTransport) -> None:
        sent.append(1)

    monkeypatch.setattr(RTCSctpTransport, "_send_sack", note)
    transport = sctp.PatientSctpTransport.__new__(sctp.PatientSctpTransport)
    transport._sack_misordered, transport._sack_duplicates = set(), []
    setattr(transport, trouble, [7])
    asyncio.run(transport._send_sack())
    assert sent == [1]


FATES = ("arrives", "arrives", "arrives", "arrives", "is lost", "comes twice", "comes late", "is damaged")
LATE_SECONDS, PATIENCE_SECONDS = 0.05, 600.0


@dataclass
class Side:
    """DTLS of one side, as SCTP needs it; each packet meets its fate on the way to the other."""

    _role: str
    fates: Iterator[str]
    state: str = "connected"
    peer: "Side | None" = None
    receiver: RTCSctpTransport | None = None
    incoming: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    def _register_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        match next(self.fates, "arrives"):
            case "arrives":
                self._deliver(data)
            case "comes twice":
                self._deliver(data)
                self._deliver(data)
            case "comes late":
                asyncio.get_running_loop().call_later(LATE_SECONDS, self._deliver, data)
            case "is damaged":
                self._deliver(data[:-1] + bytes([data[-1] ^ 1]))

    def _deliver(self, data: bytes) -> None:
        self.peer.incoming.put_nowait(data)

    async def run(self) -> None:
        """Receive one packet after the other, as aiortc does."""
        while True:
            data = await self.incoming.get()
            if self.receiver is not None:
                await self.receiver._handle_data(data)


async def over_a_bad_network(messages: list[str | bytes], fates: list[str]) -> list[str | bytes]:
    """Send messages to the server's SCTP; returns what arrives. The association is there before the network turns bad."""
    one, other = Side("client", iter(())), Side("server", iter(()))
    one.peer, other.peer = other, one
    running = [asyncio.create_task(side.run()) for side in (one, other)]
    client, server = RTCSctpTransport(one), sctp.PatientSctpTransport(other)
    received, all_came = [], asyncio.Event()

    def receive(message: str | bytes) -> None:
        received.append(message)
        if len(received) == len(messages):
            all_came.set()

    @server.on("datachannel")
    def on_channel(channel: RTCDataChannel) -> None:
        server.deliver_to(channel, receive)

    opened = asyncio.Event()
    for each in (client, server):
        await each.start(RTCSctpTransport.getCapabilities(), 5000)
    channel = RTCDataChannel(client, RTCDataChannelParameters(label="audio"))
    channel.on("open", opened.set)
    await asyncio.wait_for(opened.wait(), PATIENCE_SECONDS)
    one.fates, other.fates = iter(fates), iter(fates[::2])
    for message in messages:
        channel.send(message)
    await asyncio.wait_for(all_came.wait(), PATIENCE_SECONDS)
    assert server._advertised_rwnd == sctp.WINDOW_BYTES, "nothing is held, so the sender may send as much as at first"
    await client.stop()
    await server.stop()
    for task in running:
        task.cancel()
    return received


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20), st.integers(600, 4000).map(bytes)), min_size=1, max_size=20),
    st.lists(st.sampled_from(FATES), max_size=60),
)
def test_messages_arrive_whole_and_in_order_over_a_bad_network(messages, fates):
    assert run_in_its_own_time(over_a_bad_network(messages, fates)) == messages
