"""A lossy network: an HTTP front that sends WebRTC's packets through a relay, and the relay, which drops and delays them.

The kernel's own (tc netem between namespaces) is better where it is available; this one needs no rights and runs in a test.
"""

import asyncio
import contextlib
import random
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Address = tuple[str, int]

CANDIDATE = re.compile(r"a=candidate:.*\r?\n")
UDP_CANDIDATE = re.compile(r"a=candidate:\S+ 1 udp \d+ (127\.0\.0\.1|\d+\.\d+\.\d+\.\d+) (\d+) typ host", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """Faults of a network: for all packets, each way, and once, trouble_after_seconds after the first packet."""

    name: str
    loss: float = 0.0
    """Share of all packets that are lost, at random."""
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Largest additional delay; packets can overtake each other."""
    trouble_after_seconds: float = 3.0
    blackout_seconds: float = 0.0
    moves: bool = False
    """True if the client's address changes."""


class Relay(asyncio.DatagramProtocol):
    """Relays one connection's packets between one client and one server, with an address for each of them."""

    def __init__(self, network: Network, server: Address, chance: random.Random):
        self._network, self._server, self._chance = network, server, chance
        self._began = time.monotonic()
        self._client: Address | None = None
        self._has_moved = False
        self._near: asyncio.DatagramTransport
        self._far: asyncio.DatagramTransport

    async def open(self) -> int:
        """Open the relay; returns the port that the client must send to."""
        loop = asyncio.get_running_loop()
        self._near, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        await self._open_far()
        return int(self._near.get_extra_info("sockname")[1])

    async def _open_far(self) -> None:
        far = Far(self)
        self._far, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: far, ("127.0.0.1", 0))

    def close(self) -> None:
        self._near.close()
        self._far.close()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Relay a packet from the client."""
        self._client = addr
        if self._network.moves and not self._has_moved and self._is_troubled:
            self._has_moved = True
            self._far.close()
            self._opening = asyncio.ensure_future(self._open_far())
        self._carry(lambda: self._far.sendto(data, self._server))

    def take_back(self, data: bytes) -> None:
        """Relay a packet from the server."""
        self._carry(lambda: self._near.sendto(data, self._client))

    @property
    def _is_troubled(self) -> bool:
        return time.monotonic() - self._began >= self._network.trouble_after_seconds

    @property
    def is_dark(self) -> bool:
        return 0 <= time.monotonic() - self._began - self._network.trouble_after_seconds < self._network.blackout_seconds

    def _carry(self, send: Any) -> None:
        if self.is_dark or self._chance.random() < self._network.loss:
            return
        seconds = (self._network.delay_ms + self._chance.random() * self._network.jitter_ms) / 1000
        asyncio.get_running_loop().call_later(seconds, send) if seconds else send()


class Far(asyncio.DatagramProtocol):
    """A relay's side towards the server."""

    def __init__(self, relay: Relay):
        self._relay = relay

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._relay.take_back(data)


class Front:
    """Answers offers with the server's own answer, except for the address that packets go to."""

    def __init__(self, server: str, network: Network, seed: int):
        """server: HOST:PORT."""
        self._server, self._network, self._chance = server, network, random.Random(seed)
        self._relays: list[Relay] = []

    async def answer(self, request: Request) -> Response:
        while any(relay.is_dark for relay in self._relays):  # noqa: ASYNC110 - the time alone ends it
            await asyncio.sleep(0.1)
        offer = await request.json()
        offer["sdp"] = CANDIDATE.sub("", offer["sdp"])
        async with httpx.AsyncClient(trust_env=False) as http:
            answered = await http.post(f"http://{self._server}{request.url.path}", json=offer)
        if answered.status_code != 200:
            return Response(answered.content, answered.status_code, media_type="application/json")
        return Response(await self._through_relay(answered.text), media_type="application/json")

    async def _through_relay(self, answer: str) -> str:
        """Return the answer with the relay as its only candidate."""
        found = UDP_CANDIDATE.search(answer)
        assert found is not None, "the server has a candidate for UDP"
        later = Network(self._network.name, self._network.loss, self._network.delay_ms, self._network.jitter_ms)
        relay = Relay(later if self._relays else self._network, (found[1], int(found[2])), self._chance)
        self._relays.append(relay)
        port = await relay.open()
        line = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host\\r\\n"
        first, *_ = re.findall(r"a=candidate:.*?\\r\\n", answer)
        return re.sub(r"a=candidate:.*?\\r\\n", "", answer.replace(first, "@", 1)).replace("@", line, 1)

    def close(self) -> None:
        for relay in self._relays:
            relay.close()


@contextlib.asynccontextmanager
async def lossy(server: str, network: Network, seed: int = 0) -> AsyncIterator[str]:
    """Yield the address of a front for the server at HOST:PORT, on the loopback. It passes WebRTC and nothing else."""
    front = Front(server, network, seed)
    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/{path:path}", front.answer, methods=["POST"])])
    serves = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serves.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(serves.serve([listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        serves.should_exit = True
        await serving
        front.close()
