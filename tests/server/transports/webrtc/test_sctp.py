"""Acknowledgements are held back for a second packet, and for no longer than they may."""

import asyncio

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.rtcsctptransport import RTCSctpTransport

from server.transports.webrtc import sctp

MESSAGES = 200
MOST_LOOKS, LOOK_SECONDS = 500, 0.01


async def exchange(count: int) -> list[bytes]:
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
        channel.send(number.to_bytes(4, "little") * 160)
        await came.wait()
    for _ in range(MOST_LOOKS):  # aiortc tells of the last acknowledgement by nothing but this
        if first.sctp._flight_size:
            await asyncio.sleep(LOOK_SECONDS)
    assert first.sctp._flight_size == 0, "the last packet is acknowledged, too"
    await asyncio.gather(first.close(), second.close())
    return received


@pytest.mark.parametrize(
    ("transport", "least", "most"),
    [(RTCSctpTransport, MESSAGES, 2 * MESSAGES), (sctp.PatientSctpTransport, MESSAGES // 2, MESSAGES * 3 // 4)],
)
def test_one_acknowledgement_answers_two_packets(monkeypatch, transport, least, most):
    sent = []
    acknowledge = RTCSctpTransport._send_sack

    async def count(self: RTCSctpTransport) -> None:
        sent.append(self)
        await acknowledge(self)

    monkeypatch.setattr(RTCSctpTransport, "_send_sack", count)
    monkeypatch.setattr("aiortc.rtcpeerconnection.RTCSctpTransport", transport)
    received = asyncio.run(exchange(MESSAGES))
    assert received == [number.to_bytes(4, "little") * 160 for number in range(MESSAGES)]
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
