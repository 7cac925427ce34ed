"""ICE servers that answer, and those that do not."""

import asyncio

import pytest
from aioice import stun
from aiortc import RTCIceServer

from server.transports.webrtc_ice import IceServers, answer_seconds


class StunServer(asyncio.DatagramProtocol):
    """Tells whoever asks what its address looks like, while it is awake."""

    is_awake = True

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.is_awake:
            asked = stun.parse_message(data)
            told = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, asked.transaction_id)
            told.attributes["XOR-MAPPED-ADDRESS"] = addr
            self._transport.sendto(bytes(told), addr)


async def serving() -> tuple[StunServer, RTCIceServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(StunServer, ("127.0.0.1", 0))
    return server, RTCIceServer(f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}")


def test_one_that_is_silent_is_left_out_until_it_answers():
    async def run() -> list[int]:
        (server, address), counts = await serving(), []
        servers = IceServers([address])
        for server.is_awake in (True, False, True):
            await servers.look()
            counts.append(len(servers.configuration.iceServers))
        return counts

    assert asyncio.run(run()) == [1, 0, 1]


@pytest.mark.parametrize("url", ["stun:no-such-host.invalid:3478", "turn:127.0.0.1:9"])
def test_a_server_that_is_not_there_is_silent(url):
    assert asyncio.run(answer_seconds(RTCIceServer(url, username="a", credential="b"))) is None
