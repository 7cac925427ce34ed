"""ICE where aioice falls short: with servers that are silent, and with offers that say too much or too little."""

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

LOOK_SECONDS = 30.0  # between two looks at the ICE servers
END_OF_CANDIDATES = "a=end-of-candidates"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class IceServers:
    """STUN and TURN servers that answer: every offer would wait five seconds for one that does not."""

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
        """Ask all of them at once."""
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
    """Seconds that an ICE server takes to answer; None if it does not."""
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
    """Remove candidates that an asker at a public address cannot mean: each would be sent to, at addresses of its choice.

    And without the word that these are all: the server's own may be reached from ones that it was not told of (RFC 8863).
    Lines and words are told apart as aiortc does it.
    """
    lines = [line for line in sdp.splitlines() if line != END_OF_CANDIDATES]
    if is_public(asker):
        lines = [line for line in lines if not line.startswith(CANDIDATE) or is_public(address_of(line))]
    return "".join(f"{line}\r\n" for line in lines)


def address_of(candidate: str) -> str:
    words = candidate.split()
    return words[ADDRESS_PLACE] if len(words) > ADDRESS_PLACE else ""


def is_public(host: str) -> bool:
    """host: an address, or the network that it is counted by. A name, or an address that is none, is not."""
    try:
        address = ipaddress.ip_network(host, strict=False).network_address
    except ValueError:
        return False
    if address.version == 6:
        address = embedded(address) or address
    return address.is_global and not address.is_multicast


def embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address go to, by a translator or a tunnel (RFC 6052, RFC 3056)."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
