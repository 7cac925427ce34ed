"""The ZeroMQ sockets between gateways and engine processes."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import zmq

logger = logging.getLogger(__name__)

GATEWAY_MESSAGES_AT_ONCE = 4  # each with several answers; then the event loop goes on with other work
ENGINE_MESSAGES_AT_ONCE = 64  # then the device gets its next step, however many messages come


class EventSocket:
    """A gateway's socket on its event loop, connected to one address that may not exist yet.

    pyzmq's own asyncio support takes several times as long for a message.
    """

    def __init__(self, kind: int, address: str):
        """kind: a type of socket such as zmq.DEALER."""
        self._loop = asyncio.get_running_loop()
        self._socket = new_socket(kind)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # a message to a process that has ended must not reach the next one
        if kind == zmq.SUB:
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(address)
        self._told = int(self._socket.getsockopt(zmq.FD))
        self._is_looking = False

    def receive(self, take: Callable[[bytes], None]) -> None:
        """Pass every message to `take` from now on."""
        self._take = take
        self._loop.add_reader(self._told, self._look)
        self._look_soon()

    def send(self, data: bytes) -> None:
        """Send a message; it is lost if no process is at the other end."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(data, zmq.NOBLOCK)
        self._look_soon()

    def is_connected(self) -> bool:
        events = int(self._socket.getsockopt(zmq.EVENTS))
        self._look_soon()
        return bool(events & zmq.POLLOUT)

    def _look_soon(self) -> None:
        """Look at the socket soon. Its file descriptor reports a change once, and any call on the socket may consume it."""
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Take some messages, then let other tasks run."""
        self._is_looking = False
        for _ in range(GATEWAY_MESSAGES_AT_ONCE):
            if not has_message(self._socket):
                return
            data = self._socket.recv(zmq.NOBLOCK)
            try:
                self._take(data)
            except Exception:  # one message that cannot be used must not stop all streams
                logger.exception("a message of another process could not be taken")
        self._look_soon()


class Mailbox:
    """The engine process's socket, used only on the engine loop's thread, which waits on it itself.

    A separate thread would need the interpreter whenever the loop comes back from the device, and each hand-over costs more than
    the message.
    """

    def __init__(self, address: str):
        """address: as ipc:///path; it is not available before open()."""
        self._address = address
        self._socket = new_socket(zmq.ROUTER)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._woken, zmq.POLLIN)

    def open(self) -> None:
        self._socket.bind(self._address)

    def wake(self) -> None:
        """End the current or the next wait(). May be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # enough wake-ups are waiting already
            self._waker.send(b"\0")

    def wait(self, timeout_seconds: float) -> None:
        """Wait for a message, for wake(), or until the time is up."""
        if any(ready == self._woken.fileno() for ready, _ in self._poller.poll(max(1, int(timeout_seconds * 1000)))):
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the messages that have come: the identity of the gateway, and its data."""
        for _ in range(ENGINE_MESSAGES_AT_ONCE):
            if not has_message(self._socket):
                return
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            if len(frames) == 2:  # other messages do not come from a gateway
                yield frames[0], frames[1]

    def send(self, identity: bytes, data: bytes) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart((identity, data), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
        self._waker.close()
        self._woken.close()


def new_socket(kind: int) -> zmq.Socket[bytes]:
    """Make a socket that drops no message for lack of room, and does not wait when it is closed. kind: such as zmq.DEALER."""
    made: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, 0)
    return made


def has_message(zmq_socket: zmq.Socket[bytes]) -> bool:
    """Return whether a message waits. This check costs a tenth of the exception that an empty socket raises."""
    return bool(int(zmq_socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
