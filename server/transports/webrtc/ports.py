"""The addresses and UDP ports of a connection, and the addresses in its answer.

aioice itself takes every address of the machine, and ports that the kernel chooses.
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
    """Passes on the peer's datagrams only. Anybody may send to the port, and aiortc would take a stranger's datagrams for the
    peer's."""

    receiver: "FindableConnection"

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Take STUN from everybody, because it proves who sends it, and all else only from addresses that have given proof.

        aioice would first try to read other datagrams as STUN, too.
        """
        if not isinstance(data, bytes) or not data:
            return
        if data[0] in STUN_FIRST_BYTES:
            super().datagram_received(data, addr)
        elif self.receiver.is_peer(addr[:2]):
            self.receiver.data_received(data, self.local_candidate.component)


class FindableConnection(ice.Connection):
    """A connection that listens at the addresses of the settings, and accepts datagrams of the peer only."""

    def __init__(self, *arguments: Any, settings: Ice, **named: Any):
        super().__init__(*arguments, **named)
        self._settings = settings
        self._checked = set[tuple[str, int]]()
        self._take: Callable[[FindableConnection], None] | None = None
        self._held: bytes | None = None  # the datagram that is being taken

    def check_incoming(self, message: ice.stun.Message, addr: tuple[str, int], protocol: ice.StunProtocol) -> None:
        """Note the address from which a check with the right password came."""
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
        """Ignore empty datagrams: aiortc would end the session, and a relay may pass one on."""
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
        """Call a function for each later datagram, which it then takes by recv(). No effect while datagrams wait in the queue."""
        if self._queue.empty():
            self._take = take

    def end(self) -> None:
        """Make recv() report that the peer has ended the connection."""
        self._take = None
        self._queue.put_nowait(None)

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109 - as aioice has it
    ) -> list[Candidate]:
        """Bind the sockets and return their candidates. Raises Unreachable if a range of ports is set and used up."""
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
        """Return the candidate that a STUN server reports, if there is one. aioice asks these servers over IPv4 only."""
        if not self.stun_server or is_ipv6(protocol.local_candidate.host):
            return []
        try:
            candidate, _ = await asyncio.wait_for(ice.server_reflexive_candidate(protocol, self.stun_server), STUN_SECONDS)
        except (TimeoutError, OSError, ice.stun.TransactionError):
            return []
        return [candidate]


def install(settings: Ice) -> None:
    """Make aiortc use FindableConnection; there is no other way to choose the class."""
    rtcicetransport.Connection = functools.partial(FindableConnection, settings=settings)  # type: ignore[assignment,misc]


def chosen(settings: Ice, found: Sequence[str]) -> list[str]:
    """Return the addresses to listen on. Without a network this is the loopback, for clients on the same machine."""
    return [str(address) for address in settings.addresses] or list(found) or [LOOPBACK]


def advertised(sdp: str, address: AdvertisedAddress | None) -> str:
    """Return an answer with the advertised address instead of, or in addition to, the machine's own of its family; ports stay.

    Raises Unreachable if the answer has no address: the client would wait in vain.
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
