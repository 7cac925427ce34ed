"""Audio that fills no message is sent when its time is over."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Rest:
    """The audio since the last message, which waits for more."""

    def __init__(
        self,
        send: Callable[[], Coroutine[Any, Any, None]],
        start: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
        frame_ms: int | None,
    ):
        """send: called where no more comes in time, in a task that start makes.

        frame_ms: audio that a message waits for; None: as the server asks.
        """
        self._send, self._start, self._asked_ms = send, start, frame_ms
        self._waiting: asyncio.Task[None] | None = None

    async def send(self, unsent_ms: int, wanted_ms: int) -> None:
        """Send it where it fills a message; else later, unless cancel() comes first. wanted_ms: what the server asks for."""
        frame_ms = wanted_ms if self._asked_ms is None else self._asked_ms
        if unsent_ms >= frame_ms:
            await self._send()
        elif self._waiting is None:
            self._waiting = self._start(self._send_later(frame_ms))

    async def _send_later(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)
        self._waiting = None
        await self._send()

    def cancel(self) -> None:
        """It is sent with something else, or never."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
