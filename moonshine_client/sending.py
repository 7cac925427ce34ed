"""Audio that does not fill a message is sent after a time limit."""

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
        """send: called if no more audio comes in time, in a task that `start` makes.

        frame_ms: milliseconds of audio that a message waits for; None: as many as the server asks for.
        """
        self._send, self._start, self._asked_ms = send, start, frame_ms
        self._waiting: asyncio.Task[None] | None = None

    async def send(self, unsent_ms: int, wanted_ms: int) -> None:
        """Send the audio if it fills a message; else later, unless cancel() comes first. wanted_ms: the server's frame_ms."""
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
        """Cancel sending later: the audio is sent with other data, or never."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
