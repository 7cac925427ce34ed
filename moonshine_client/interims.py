"""The interims of a stream that wait to be read."""

import asyncio
from collections import deque

from moonshine_client.transcripts import Message


class Interims:
    """A queue that drops interims whose text a newer interim of the same channel repeats."""

    def __init__(self, most: int | None):
        """most: most interims of one channel; of more, the oldest are dropped. None: all are kept."""
        self._most = most
        self._waiting = deque[Message]()
        self._has_news = asyncio.Event()
        self._has_ended = False

    def put(self, newest: Message) -> None:
        same = [each for each in self._waiting if each.get("channel") == newest.get("channel")]
        if self._most is not None and len(same) >= self._most:
            self._waiting.remove(same[0])
        self._waiting.append(newest)
        self._has_news.set()

    def end(self) -> None:
        """End the queue: no more interims come."""
        self._has_ended = True
        self._has_news.set()

    async def next(self) -> Message | None:
        """Return the oldest interim; waits for one. None at the end."""
        while not self._waiting:
            if self._has_ended:
                return None
            self._has_news.clear()
            await self._has_news.wait()
        return self._waiting.popleft()
