"""At which addresses and ports clients find the server: ranges that are kept and used up, and a network address translator."""

import asyncio
import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from aioice import ice, turn
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, rtcicetransport
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.servers import free_port
from moonshine_client.client import StreamingClient
from moonshine_client.errors import StreamError
from server.errors import StartError
from server.settings import AdvertisedAddress, Ice
from server.transports.webrtc import ports, udp
from server.transports.webrtc.ports import FindableConnection, advertised
from server.transports.webrtc.udp import Unreachable
from tests.conftest import PROJECT, RunningServer, wait_until_ready

INSIDE, OUTSIDE = "127.0.0.5", "127.0.0.6"
LOW, HIGH = 20_100, 20_107
INIT = json.dumps({"op": "init", "sid": "s"})
GONE_SECONDS = 20.0  # for the ports of a session that has ended


def test_what_aioice_and_aiortc_are_leaned_on_for_is_there():
    """None of it is said to be for others. Whoever upgrades them reads this first."""
    gathering = inspect.signature(ice.Connection.get_component_candidates)
    assert list(gathering.parameters) == ["self", "component", "addresses", "timeout"]
    assert list(inspect.signature(ice.server_reflexive_candidate).parameters) == ["protocol", "stun_server"]
    assert list(inspect.signature(ice.StunProtocol).parameters) == ["receiver"]
    assert ice.candidate_foundation("host", "udp", "10.0.0.5") and ice.candidate_priority(1, "host")
    assert turn.UDP_SOCKET_BUFFER_SIZE > 0 and ice.stun.TransactionError
    used = inspect.getsource(ice.Connection)
    assert "self._protocols += host_protocols" in used and "self.stun_server" in used and "get_host_addresses(" in used
    assert "self._connection = Connection(" in inspect.getsource(rtcicetransport.RTCIceGatherer)


@contextlib.asynccontextmanager
async def gathered(settings: Ice) -> AsyncIterator[list[tuple[str, int]]]:
    connection = FindableConnection(ice_controlling=False, settings=settings)
    try:
        await connection.gather_candidates()
        yield [(candidate.host, candidate.port) for candidate in connection.local_candidates]
    finally:
        await connection.close()


def test_connections_keep_to_their_addresses_and_range_until_it_is_used_up():
    settings = Ice(addresses=("127.0.0.5", "127.0.0.7"), udp_ports=(LOW, LOW + 3))

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            found = [await stack.enter_async_context(gathered(settings)) for _ in range(4)]
            assert {address for each in found for address, _ in each} == {"127.0.0.5", "127.0.0.7"}
            for address in ("127.0.0.5", "127.0.0.7"):
                ports = [port for each in found for host, port in each if host == address]
                assert sorted(ports) == list(range(LOW, LOW + 4)), "each once"
            with pytest.raises(Unreachable, match="no UDP port"):
                await stack.enter_async_context(gathered(settings))
        async with gathered(settings) as found_again:
            assert len(found_again) == 2, "ended connections have given theirs back"

    asyncio.run(run())


def test_without_a_network_the_loopback_is_a_way():
    assert ports.chosen(Ice(), []) == ["127.0.0.1"]
    assert ports.chosen(Ice(), ["192.0.2.1"]) == ["192.0.2.1"]
    assert ports.chosen(Ice(addresses=("10.0.0.5",)), ["192.0.2.1"]) == ["10.0.0.5"]


def test_an_address_that_the_machine_has_not_stops_the_start():
    with pytest.raises(StartError, match="198.51.100.7.*ASR_ICE_ADDRESSES"):
        udp.check(Ice(addresses=("198.51.100.7",)), 8)
    udp.check(Ice(addresses=("127.0.0.5",)), 8)


HOSTS = st.lists(st.sampled_from(["10.0.0.5", "192.168.7.9", "fd00::5"]), min_size=1, max_size=4)


@given(HOSTS, st.sampled_from(["203.0.113.5", "2001:db8::5"]), st.booleans())
def test_an_answer_names_the_advertised_address_and_the_same_ports(hosts, public, is_beside):
    lines = ["v=0", "c=IN IP4 10.0.0.5", "a=candidate:9 1 udp 5 198.51.100.1 9 typ srflx raddr 10.0.0.5 rport 6"]
    lines += [f"a=candidate:{n} 1 udp 7 {host} {50_000 + n} typ host" for n, host in enumerate(hosts)]
    sdp = "".join(f"{line}\r\n" for line in lines)
    told = advertised(sdp, AdvertisedAddress(ip=public, is_beside=is_beside))
    assert advertised(sdp, None) == sdp
    assert lines[2] in told, "what a STUN server said stays"
    for number, host in enumerate(hosts):
        is_theirs = (":" in host) == (":" in public)
        assert (f" {public} {50_000 + number} typ host" in told) == is_theirs
        assert (f" {host} {50_000 + number} typ host" in told) == (is_beside or not is_theirs)
    assert (f"c=IN IP4 {public}" in told) == (":" not in public and not is_beside)


def test_an_answer_without_an_address_is_none():
    with pytest.raises(Unreachable):
        advertised("v=0\r\nc=IN IP4 0.0.0.0\r\n", None)


# A server behind a translator


@pytest.fixture(scope="module")
def start_null_server(tmp_path_factory) -> Iterator[Callable[..., RunningServer]]:
    """With an engine that hears nothing."""
    started: list[RunningServer] = []

    def start(**variables: str) -> RunningServer:
        port, log = free_port(), tmp_path_factory.mktemp("null") / "log"
        environment = os.environ | {"ASR_HOST": "127.0.0.1", "ASR_PORT": str(port), "ASR_MAX_SESSIONS": "100"} | variables
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.null_server"],
            cwd=PROJECT,
            env=environment,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        started.append(RunningServer(f"127.0.0.1:{port}", process, log))
        wait_until_ready(started[-1])
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def neighbours(start_null_server) -> list[RunningServer]:
    """Two servers that share a range of eight ports, as gateways do."""
    ice_settings = {"ASR_UDP_PORTS": f"{LOW}-{HIGH}", "ASR_ICE_ADDRESSES": INSIDE, "ASR_ADVERTISED_ADDRESS": OUTSIDE}
    return [start_null_server(**ice_settings) for _ in range(2)]


class Translator(asyncio.DatagramProtocol):
    """Stands at OUTSIDE and passes packets on to the same port INSIDE, one to one, and back to who sent last."""

    def __init__(self, port: int):
        self.port, self.passed = port, 0
        self._client: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        inside = (INSIDE, self.port)
        self.passed += 1
        if addr != inside:
            self._client = addr
        if target := inside if addr != inside else self._client:
            self._transport.sendto(data, target)


@contextlib.asynccontextmanager
async def translating() -> AsyncIterator[dict[int, Translator]]:
    loop, made = asyncio.get_running_loop(), {}
    for port in range(LOW, HIGH + 1):
        _, made[port] = await loop.create_datagram_endpoint(lambda port=port: Translator(port), (OUTSIDE, port))
    yield made
    for translator in made.values():
        translator._transport.close()


async def ask(server: RunningServer, connection: RTCPeerConnection) -> httpx.Response:
    """Offers without saying where the client is: packets come back to where they came from, and no other way."""
    await connection.setLocalDescription(await connection.createOffer())
    offer = re.sub(r"a=candidate:[^\n]*\n", "", connection.localDescription.sdp)
    return await asyncio.to_thread(
        httpx.post, f"http://{server.address}/webrtc", json={"type": "offer", "sdp": offer}, trust_env=False
    )


@pytest.mark.server
def test_clients_reach_a_server_behind_a_translator_by_the_address_that_it_advertises(neighbours):
    async def connect(server: RunningServer) -> tuple[RTCPeerConnection, int]:
        """And the port of the answer."""
        connection, ready = RTCPeerConnection(RTCConfiguration(iceServers=[])), asyncio.Event()
        channel = connection.createDataChannel("audio")
        channel.on("open", lambda: channel.send(INIT))
        channel.on("message", lambda text: ready.set() if json.loads(text)["op"] == "ready" else None)
        answer = (await ask(server, connection)).json()["sdp"]
        assert INSIDE not in answer
        await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await asyncio.wait_for(ready.wait(), 10.0)
        (port,) = re.findall(rf"{re.escape(OUTSIDE)} (\d+) typ host", answer)
        return connection, int(port)

    async def run() -> None:
        async with translating() as translators:
            connected = await asyncio.gather(*(connect(server) for server in neighbours * 2))
            ports = {port for _, port in connected}
            assert len(ports) == 4 and all(translators[port].passed > 10 for port in ports)
            await asyncio.gather(*(connection.close() for connection, _ in connected))

    asyncio.run(run())


@pytest.mark.server
def test_a_range_that_is_used_up_answers_503_and_serves_again_when_sessions_have_ended(neighbours):
    async def fill() -> int:
        """How many were refused."""
        async with translating(), contextlib.AsyncExitStack() as stack:
            refused = []
            for number in range(HIGH - LOW + 3):
                client = StreamingClient(neighbours[number % 2].address, refused_seconds=0, resume_seconds=0)
                try:
                    await stack.enter_async_context(client)
                except StreamError as error:
                    refused.append((error.reason, error.message))
            assert set(refused) == {("server_full", "no UDP port is free")}
            assert len(refused) >= 2, "a port of the test before may be held for a moment"
        return len(refused)

    async def come_again() -> None:
        async with translating(), StreamingClient(neighbours[0].address, refused_seconds=GONE_SECONDS):
            pass

    count_refused = asyncio.run(fill())
    texts = [server.get("/metrics").text for server in neighbours]
    counts = [re.search(r'offers_refused_total\{reason="server_full"\} (\S+)', text)[1] for text in texts]
    assert sum(map(float, counts)) == count_refused
    asyncio.run(come_again())
