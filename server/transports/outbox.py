"""The outbox of one client, which may read slowly: the same for all transports."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from server.errors import Code, ServerError
from server.telemetry.metrics import Api, Metrics

HIGH_MARK_BYTES = 256 * 1024  # of unsent messages: droppable ones are dropped, the next one says more
SLOW_SECONDS = 15.0  # above the high mark for so long: the client does not read at all
SLOW_READER = ServerError(Code.SLOW_READER, "messages are not read; the connection is given up")


class TooLong(Exception):
    """The message is longer than the client takes."""


class Sink(Protocol):
    """A connection, as far as the outbox is concerned."""

    @property
    def is_open(self) -> bool: ...

    @property
    def unsent_bytes(self) -> int: ...

    def send(self, text: str) -> bool:
        """Hand over a message; False where the connection is closing. Raises TooLong."""


class OutgoingMessage(Protocol):
    """A message of an API."""

    @property
    def droppable(self) -> bool: ...

    @property
    def op(self) -> str: ...

    def forms(self) -> Iterator["OutgoingMessage"]:
        """The message, and what to send in its place where it is longer than the client takes."""

    def encode(self) -> str: ...


class Outbox:
    """Counts what was sent; gives up a client that does not read."""

    def __init__(
        self, api: Api, transport: Sink, metrics: Metrics, clock: Callable[[], float], give_up: Callable[[ServerError], None]
    ):
        """give_up: told once when the client has not read for too long. It must not send from within the call."""
        self._api = api
        self._transport = transport
        self._metrics = metrics
        self._clock = clock
        self._give_up = give_up
        self._slow_since: float | None = None  # when the unsent messages rose above the high mark

    def send(self, message: OutgoingMessage) -> bool:
        """False where the message was dropped."""
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
        """True if the client reads more slowly than it is written to."""
        if self._transport.unsent_bytes <= HIGH_MARK_BYTES:
            self._slow_since = None
            return False
        now = self._clock()
        if self._slow_since is None:
            self._slow_since = now
        if now - self._slow_since > SLOW_SECONDS:
            self._slow_since = now  # told once; until it has ended, and not with every message
            self._give_up(SLOW_READER)
        return True


class Wire(Protocol):
    """A socket that is written to at once."""

    @property
    def unsent_bytes(self) -> int: ...

    def write_text(self, text: str) -> bool:
        """Write a message; False where the socket is closing."""


class MessageQueue:
    """Messages that a task of its own writes, or that are written at once from write_to() on."""

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
        """Write the messages that wait, and each later one at once."""
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
        """The oldest message; waits for one. None at the end."""
        while not self._messages and self.is_open:
            self._has_news.clear()
            await self._has_news.wait()
        if not self._messages:
            return None
        text = self._messages.popleft()
        self._waiting_bytes -= len(text)
        return text
