"""ICE where aioice falls short: on a machine without a network, and with offers that say too much or too little."""

import ipaddress
import re
from collections.abc import Callable

from aioice import ice

LOOPBACK = "127.0.0.1"
CANDIDATE = re.compile(r"(?m)^a=candidate:\S+ \d+ \S+ \d+ (?P<host>\S+) [^\r\n]*(?:\r?\n|$)")
END_OF_CANDIDATES = re.compile(r"(?m)^a=end-of-candidates\r?(?:\n|$)")


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
    return len(CANDIDATE.findall(sdp))


def with_usable_candidates(sdp: str, asker: str) -> str:
    """Without candidates that an asker at a public address cannot mean: each would be sent to, at addresses of its choice.

    And without the word that these are all: the server's own may be reached from ones that it was not told of (RFC 8863).
    """
    sdp = END_OF_CANDIDATES.sub("", sdp)
    if not is_public(asker):
        return sdp
    return CANDIDATE.sub(lambda match: match[0] if is_public(match["host"]) else "", sdp)


def is_public(host: str) -> bool:
    """A name, or an address that is none, is not."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False
