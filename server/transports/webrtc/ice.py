"""ICE for cases that aioice does not handle: servers that do not answer, and offers with unusable candidates."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Sequence

from aioice import ice
from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcicetransport import connection_kwargs

from server.transports.webrtc.ports import ADDRESS_PLACE, CANDIDATE

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0  # time between two checks of the ICE servers
END_OF_CANDIDATES = "a=end-of-candidates"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class IceServers:
    """The STUN and TURN servers that answer. Every offer would wait five seconds for one that does not."""

    def __init__(self, servers: Sequence[RTCIceServer]):
        self._servers = list(servers)
        self._silent: set[int] = set()

    @property
    def configuration(self) -> RTCConfiguration:
        """Configuration of the next connection."""
        return RTCConfiguration(iceServers=[each for number, each in enumerate(self._servers) if number not in self._silent])

    async def watch(self) -> None:
        while self._servers:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Check all servers at the same time."""
        for number, seconds in enumerate(await asyncio.gather(*map(answer_seconds, self._servers))):
            self._note(number, seconds)

    def _note(self, number: int, seconds: float | None) -> None:
        url = self._servers[number].urls
        if seconds is None and number not in self._silent:
            self._silent.add(number)
            logger.warning("the ICE server %s does not answer; offers are answered without it until it does", url)
        elif seconds is not None and number in self._silent:
            self._silent.discard(number)
            logger.info("the ICE server %s answers again", url)
        elif seconds is not None:
            logger.debug("the ICE server %s answers within %.0f ms", url, seconds * 1000)


async def answer_seconds(server: RTCIceServer) -> float | None:
    """Return the seconds that an ICE server takes to answer; None if it does not."""
    connection, began = ice.Connection(ice_controlling=False, **connection_kwargs([server])), time.monotonic()
    try:
        await connection.gather_candidates()
        is_known = any(candidate.type != "host" for candidate in connection.local_candidates)
        return time.monotonic() - began if is_known else None
    finally:
        await connection.close()


def count_candidates(sdp: str) -> int:
    return sum(line.startswith(CANDIDATE) for line in sdp.splitlines())


def with_usable_candidates(sdp: str, asker: str) -> str:
    """Remove candidates without a public address if the asker's is public: packets would be sent to addresses of its choice.

    Also remove the line that says that these are all candidates: the client may reach the server from others (RFC 8863). Lines
    and words are split as aiortc does it.
    """
    lines = [line for line in sdp.splitlines() if line != END_OF_CANDIDATES]
    if is_public(asker):
        lines = [line for line in lines if not line.startswith(CANDIDATE) or is_public(address_of(line))]
    return "".join(f"{line}\r\n" for line in lines)


def address_of(candidate: str) -> str:
    words = candidate.split()
    return words[ADDRESS_PLACE] if len(words) > ADDRESS_PLACE else ""


def is_public(host: str) -> bool:
    """Return whether a host is at a public address. host: an address, or the network that it is counted by.

    False for a name, or for an invalid address.
    """
    try:
        address = ipaddress.ip_network(host, strict=False).network_address
    except ValueError:
        return False
    if address.version == 6:
        address = embedded(address) or address
    return address.is_global and not address.is_multicast


def embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a translator or tunnel sends an IPv6 address's packets to (RFC 6052, RFC 3056), if any."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
