"""The outbox of one client, which may read slowly. All transports use it."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from server.errors import Code, ServerError
from server.telemetry.metrics import Api, Metrics

HIGH_MARK_BYTES = 256 * 1024  # of unsent messages; above it droppable ones are dropped, because the next one contains more
SLOW_SECONDS = 15.0  # time above the high mark after which the client counts as not reading
SLOW_READER = ServerError(Code.SLOW_READER, "messages are not read; the connection is given up")


class TooLong(Exception):
    """The message is longer than the client accepts."""


class Sink(Protocol):
    """The part of a connection that the outbox uses."""

    @property
    def is_open(self) -> bool: ...

    @property
    def unsent_bytes(self) -> int: ...

    def send(self, text: str) -> bool:
        """Send a message; False if the connection is closing. Raises TooLong."""


class OutgoingMessage(Protocol):
    """A message of an API."""

    @property
    def droppable(self) -> bool: ...

    @property
    def op(self) -> str: ...

    def forms(self) -> Iterator["OutgoingMessage"]:
        """Yield the message, and then the forms that replace it if it is longer than the client accepts."""

    def encode(self) -> str: ...


class Outbox:
    """Sends messages and counts them; gives up a client that does not read."""

    def __init__(
        self, api: Api, transport: Sink, metrics: Metrics, clock: Callable[[], float], give_up: Callable[[ServerError], None]
    ):
        """give_up: called when the client has not read for too long. It must not send from within the call."""
        self._api = api
        self._transport = transport
        self._metrics = metrics
        self._clock = clock
        self._give_up = give_up
        self._slow_since: float | None = None  # when the unsent messages rose above the high mark

    def send(self, message: OutgoingMessage) -> bool:
        """Send a message; False if it was not sent."""
        if not self._transport.is_open:
            return False
        if self._is_behind() and message.droppable:
            self._metrics.interims_dropped_total.inc()
            return False
        for form in message.forms():
            try:
                sent = self._transport.send(form.encode())
            except TooLong:
                continue
            if sent:
                self._metrics.sent(self._api, form)
            return sent
        return False

    def _is_behind(self) -> bool:
        """True if the client reads too slowly. Gives it up after SLOW_SECONDS."""
        if self._transport.unsent_bytes <= HIGH_MARK_BYTES:
            self._slow_since = None
            return False
        now = self._clock()
        if self._slow_since is None:
            self._slow_since = now
        if now - self._slow_since > SLOW_SECONDS:
            self._slow_since = now  # give_up() must not be called with every message until the session has ended
            self._give_up(SLOW_READER)
        return True


class Wire(Protocol):
    """A socket that writes at once."""

    @property
    def unsent_bytes(self) -> int: ...

    def write_text(self, text: str) -> bool:
        """Write a message; False if the socket is closing."""


class MessageQueue:
    """Messages that a separate task writes, or that are written at once after write_to()."""

    def __init__(self) -> None:
        self._messages: deque[str] = deque()
        self._has_news = asyncio.Event()  # there is something to write, or nothing more will come
        self._wire: Wire | None = None
        self._waiting_bytes = 0
        self.is_open = True

    @property
    def unsent_bytes(self) -> int:
        return self._waiting_bytes if self._wire is None else self._wire.unsent_bytes

    def write_to(self, wire: Wire) -> None:
        """Write the waiting messages, and each later one at once."""
        self._wire = wire
        for text in self._messages:
            wire.write_text(text)
        self._messages.clear()

    def send(self, text: str) -> bool:
        if self._wire is not None:
            return self._wire.write_text(text)
        self._messages.append(text)
        self._waiting_bytes += len(text)
        self._has_news.set()
        return True

    def end(self) -> None:
        """Take no more messages; the unsent ones are the last."""
        self.is_open = False
        self._has_news.set()

    async def next(self) -> str | None:
        """Return the oldest message; waits for one. None at the end."""
        while not self._messages and self.is_open:
            self._has_news.clear()
            await self._has_news.wait()
        if not self._messages:
            return None
        text = self._messages.popleft()
        self._waiting_bytes -= len(text)
        return text
