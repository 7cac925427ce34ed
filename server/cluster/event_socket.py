"""A zmq socket on the event loop. pyzmq's own asyncio takes several times as long for a message."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import zmq

from server.cluster.zmq_sockets import has_message, new_socket

logger = logging.getLogger(__name__)

MESSAGES_AT_ONCE = 32


class EventSocket:
    """Connected to one address, which need not be there yet."""

    def __init__(self, kind: int, address: str):
        """kind: as zmq.DEALER."""
        self._loop = asyncio.get_running_loop()
        self._socket = new_socket(kind)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # what finds nobody at the other end must not reach the next one there
        if kind == zmq.SUB:
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(address)
        self._told = int(self._socket.getsockopt(zmq.FD))
        self._is_looking = False

    def receive(self, take: Callable[[bytes], None]) -> None:
        """From now on hand every message to `take`."""
        self._take = take
        self._loop.add_reader(self._told, self._look)
        self._look_soon()

    def send(self, data: bytes) -> None:
        """It is lost where nobody is at the other end."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(data, zmq.NOBLOCK)
        self._look_soon()

    def is_connected(self) -> bool:
        events = int(self._socket.getsockopt(zmq.EVENTS))
        self._look_soon()
        return bool(events & zmq.POLLOUT)

    def _look_soon(self) -> None:
        """The file descriptor tells of a change once, and whatever is done on the socket may have used that up."""
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Take some, then let others have their turn."""
        self._is_looking = False
        for _ in range(MESSAGES_AT_ONCE):
            if not has_message(self._socket):
                return
            data = self._socket.recv(zmq.NOBLOCK)
            try:
                self._take(data)
            except Exception:  # one message that cannot be used must not silence all streams
                logger.exception("a message of another process could not be taken")
        self._look_soon()
