"""The addresses and UDP ports of a connection, and how its answer names them.

aioice takes every address of the machine, and ports of the kernel's choice.
"""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

from aioice import Candidate, ice
from aiortc import rtcicetransport

from server.settings import AdvertisedAddress, Ice
from server.transports.webrtc.udp import Unreachable, bind_all, is_ipv6

LOOPBACK = "127.0.0.1"
SUCCEEDED = ice.CandidatePair.State.SUCCEEDED
ANY_PORT = range(1)  # the kernel chooses one
STUN_FIRST_BYTES = range(4)  # RFC 7983, 7
STUN_SECONDS = 5.0  # as long as aioice waits
CANDIDATE, HOST_TYPE = "a=candidate:", "host"
ADDRESS_PLACE, TYPE_PLACE = 4, 7  # among the words of a candidate (RFC 8839, 5.1)


class PeerProtocol(ice.StunProtocol):
    """Hands on what the peer sends. Anybody may send to the port; aiortc would take a stranger's datagrams for the peer's."""

    receiver: "FindableConnection"

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Take STUN from everybody, for it carries proof of who sends it, and all else from addresses that have given proof.

        aioice would try to read that as STUN, too, before it passes it on.
        """
        if not isinstance(data, bytes) or not data:
            return
        if data[0] in STUN_FIRST_BYTES:
            super().datagram_received(data, addr)
        elif self.receiver.is_peer(addr[:2]):
            self.receiver.data_received(data, self.local_candidate.component)


class FindableConnection(ice.Connection):
    """Listens where the settings say, and to the peer only."""

    def __init__(self, *arguments: Any, settings: Ice, **named: Any):
        super().__init__(*arguments, **named)
        self._settings = settings
        self._checked = set[tuple[str, int]]()
        self._take: Callable[[FindableConnection], None] | None = None
        self._held: bytes | None = None  # the datagram that is being taken

    def check_incoming(self, message: ice.stun.Message, addr: tuple[str, int], protocol: ice.StunProtocol) -> None:
        """Note where a check with the right password came from."""
        self._checked.add(addr)
        super().check_incoming(message, addr, protocol)

    def is_peer(self, address: tuple[Any, ...]) -> bool:
        """Return whether a check with the right password has come from the address, or has been answered from there."""
        return (
            address in self._checked
            or any(checked == address for _, checked, _ in self._early_checks)
            or any(pair.remote_addr == address and pair.state is SUCCEEDED for pair in self._check_list)
        )

    def data_received(self, data: bytes, component: int) -> None:
        """Leave out what is empty: aiortc ends the session by it, and a relay may hand it on."""
        if not data:
            return
        if self._take is None:
            super().data_received(data, component)
        else:
            self._held = data
            self._take(self)

    async def recv(self) -> bytes:
        if self._held is None:
            return await super().recv()
        data, self._held = self._held, None
        return data

    def take_by(self, take: Callable[["FindableConnection"], None]) -> None:
        """Call a function when a datagram has come, which then takes it by recv(), as soon as none waits any more."""
        if self._queue.empty():
            self._take = take

    def end(self) -> None:
        """Let whoever waits in recv() know that the peer has ended the connection."""
        self._take = None
        self._queue.put_nowait(None)

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109 - as aioice has it
    ) -> list[Candidate]:
        """Raises Unreachable where a range of ports is set and used up."""
        sockets = bind_all(chosen(self._settings, addresses), self._settings.ports or ANY_PORT)
        protocols = [await self._listen(component, bound) for bound in sockets]
        beside = await asyncio.gather(
            *(self._candidate_of_stun(protocol) for protocol in protocols),
            super().get_component_candidates(component, [], timeout),  # those of TURN, which need no address here
        )
        return [protocol.local_candidate for protocol in protocols] + [each for found in beside for each in found]

    async def _listen(self, component: int, bound: socket.socket) -> ice.StunProtocol:
        _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: PeerProtocol(self), sock=bound)
        self._protocols.append(protocol)
        address, port, *_ = bound.getsockname()
        protocol.local_candidate = Candidate(
            foundation=ice.candidate_foundation(HOST_TYPE, "udp", address),
            component=component,
            transport="udp",
            priority=ice.candidate_priority(component, HOST_TYPE),
            host=address,
            port=port,
            type=HOST_TYPE,
        )
        return protocol

    async def _candidate_of_stun(self, protocol: ice.StunProtocol) -> list[Candidate]:
        """Ask a STUN server for the address; aioice asks them over IPv4 only."""
        if not self.stun_server or is_ipv6(protocol.local_candidate.host):
            return []
        try:
            candidate, _ = await asyncio.wait_for(ice.server_reflexive_candidate(protocol, self.stun_server), STUN_SECONDS)
        except (TimeoutError, OSError, ice.stun.TransactionError):
            return []
        return [candidate]


def install(settings: Ice) -> None:
    """Make aiortc's connections use it; there is no other way to choose the class."""
    rtcicetransport.Connection = functools.partial(FindableConnection, settings=settings)  # type: ignore[assignment,misc]


def chosen(settings: Ice, found: Sequence[str]) -> list[str]:
    """The addresses to listen on. Without a network: the loopback, for who asks from the same machine."""
    return [str(address) for address in settings.addresses] or list(found) or [LOOPBACK]


def advertised(sdp: str, address: AdvertisedAddress | None) -> str:
    """An answer with the address that clients know in place of, or beside, the machine's own of its family; ports stay.

    Raises Unreachable for an answer that names no address at all: its reader would wait in vain.
    """
    lines = sdp.splitlines()
    if not any(line.startswith(CANDIDATE) for line in lines):
        raise Unreachable("the server has no address to listen on")
    if address is None:
        return sdp
    return "".join(f"{line}\r\n" for old in lines for line in readdressed(old, address))


def readdressed(line: str, address: AdvertisedAddress) -> list[str]:
    family = "IP6" if is_ipv6(address.ip) else "IP4"
    if line.startswith(f"c=IN {family} ") and not address.is_beside and not is_unspecified(line.split()[-1]):
        return [f"c=IN {family} {address.ip}"]
    words = line.split(" ")
    if not line.startswith(CANDIDATE) or words[TYPE_PLACE] != HOST_TYPE or is_ipv6(words[ADDRESS_PLACE]) != is_ipv6(address.ip):
        return [line]
    words[ADDRESS_PLACE] = address.ip
    return [line, " ".join(words)] if address.is_beside else [" ".join(words)]


def is_unspecified(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified
