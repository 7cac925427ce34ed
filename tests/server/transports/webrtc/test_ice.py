"""ICE servers that answer, and those that do not."""

import asyncio

import pytest
from aioice import stun
from aiortc import RTCIceServer

from server.transports.webrtc.ice import IceServers, answer_seconds, count_candidates, with_usable_candidates


@pytest.mark.parametrize(("asker", "kept"), [("192.168.1.2", 2), ("8.8.8.8", 1), ("2a00:1450:4001:8::/64", 1), ("fd00::/64", 2)])
def test_who_asks_from_a_public_address_or_network_names_no_private_one(asker, kept):
    candidates = [f"a=candidate:1 1 udp 1 {address} 9 typ host" for address in ("10.0.0.5", "8.8.4.4")]
    assert count_candidates(with_usable_candidates("\r\n".join(candidates), asker)) == kept


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


@pytest.mark.slow
def test_one_that_is_silent_is_left_out_until_it_answers():
    async def run() -> list[int]:
        (server, address), counts = await serving(), []
        servers = IceServers([address])
        for server.is_awake in (True, False, True):
            await servers.look()
            counts.append(len(servers.configuration.iceServers))
        return counts

    assert asyncio.run(run()) == [1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("url", ["stun:no-such-host.invalid:3478", "turn:127.0.0.1:9"])
def test_a_server_that_is_not_there_is_silent(url):
    assert asyncio.run(answer_seconds(RTCIceServer(url, username="a", credential="b"))) is None
