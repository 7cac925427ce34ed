"""The engine process's socket: what gateways send, and what they are answered. Used only on the engine loop's thread.

The loop waits here itself. A thread between the two would want the interpreter whenever the loop comes back from the device,
and each hand-over costs more than the message.
"""

import contextlib
import socket
from collections.abc import Iterator

import zmq

from server.cluster.zmq_sockets import has_message, new_socket

MESSAGES_AT_ONCE = 256  # then the device gets its next step, however much comes in


class Mailbox:
    def __init__(self, address: str):
        """address: as ipc:///path; nobody finds it before open()."""
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
        """End wait(), also one that is only to begin. From any thread."""
        with contextlib.suppress(BlockingIOError):  # it has been told often enough
            self._waker.send(b"\0")

    def wait(self, timeout_seconds: float) -> None:
        """Until there is a message, wake() is called or the time is up."""
        if any(ready == self._woken.fileno() for ready, _ in self._poller.poll(max(1, int(timeout_seconds * 1000)))):
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Those that are there: of which gateway, and what it says."""
        for _ in range(MESSAGES_AT_ONCE):
            if not has_message(self._socket):
                return
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            if len(frames) == 2:  # whatever else has found the socket is no gateway
                yield frames[0], frames[1]

    def send(self, identity: bytes, data: bytes) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart((identity, data), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
        self._waker.close()
        self._woken.close()
