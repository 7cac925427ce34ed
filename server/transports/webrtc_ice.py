"""ICE where aioice falls short: on a machine without a network, and with offers that say too much or too little."""

import ipaddress
from collections.abc import Callable

from aioice import ice

LOOPBACK = "127.0.0.1"
CANDIDATE, END_OF_CANDIDATES = "a=candidate:", "a=end-of-candidates"
ADDRESS_PLACE = 4  # among the words of a candidate (RFC 8839, 5.1)


def install() -> None:
    """Have aioice use the loopback where there is nothing else: who asks from the same machine can then connect."""
    if not hasattr(ice.get_host_addresses, "__wrapped__"):
        ice.get_host_addresses = or_loopback(ice.get_host_addresses)


def or_loopback(addresses: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def found(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6) or [LOOPBACK]

    found.__wrapped__ = addresses  # type: ignore[attr-defined]
    return found


def count_candidates(sdp: str) -> int:
    return sum(line.startswith(CANDIDATE) for line in sdp.splitlines())


def with_usable_candidates(sdp: str, asker: str) -> str:
    """Without candidates that an asker at a public address cannot mean: each would be sent to, at addresses of its choice.

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
    """A name, or an address that is none, is not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast
