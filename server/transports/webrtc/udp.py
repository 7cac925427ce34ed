"""The UDP ports of WebRTC connections. Imports neither aioice nor aiortc, because the supervisor checks the ports, too."""

import errno
import itertools
import logging
import random
import socket
from collections.abc import Sequence

from server.errors import Code, Refused, StartError
from server.settings import Ice

logger = logging.getLogger(__name__)

PORTS_OF_A_SESSION = 2  # at each address: its own, and one of an ended session, which stays bound for some seconds
BUFFER_BYTES = 256 * 1024  # of a socket's received data, as in aioice


class Unreachable(Refused):
    """No client could reach the connection."""

    def __init__(self, message: str):
        super().__init__(Code.SERVER_FULL, message)


def bind_all(addresses: Sequence[str], ports: range) -> list[socket.socket]:
    """Bind a socket at every address that can be bound. Raises Unreachable."""
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                bound.append(bind(address, ports))
            except OSError as exc:
                logger.warning("cannot bind to %s: %s", address, exc.strerror)
    except Unreachable:
        for each in bound:
            each.close()
        raise
    return bound


def bind(address: str, ports: range) -> socket.socket:
    """Bind a random port of the range, because other processes may share it.

    Raises Unreachable if no port is free, or OSError if the address cannot be used.
    """
    found = socket.socket(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, socket.SOCK_DGRAM)
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    first = random.randrange(len(ports))
    for port in itertools.chain(ports[first:], ports[:first]):
        try:
            found.bind((address, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                found.close()
                raise
        else:
            return found
    found.close()
    raise Unreachable("no UDP port is free")


def is_ipv6(address: str) -> bool:
    return ":" in address


def check(settings: Ice, max_sessions: int) -> None:
    """Raises StartError for an address that this machine does not have. Warns if there are too few ports for the sessions."""
    for address in map(str, settings.addresses):
        try:
            bind(address, range(1)).close()
        except OSError as exc:
            raise StartError(f"cannot listen on {address}: {(exc.strerror or '').lower()} (ASR_ICE_ADDRESSES)") from exc
    wanted = max_sessions * PORTS_OF_A_SESSION
    if settings.ports is not None and len(settings.ports) < wanted:
        logger.warning("%d sessions may want %d UDP ports, and ASR_UDP_PORTS has %d", max_sessions, wanted, len(settings.ports))
