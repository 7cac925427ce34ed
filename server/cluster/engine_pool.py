"""A gateway's links to all engine processes, in the place of one: every stream belongs to the engine that had fewest."""

import asyncio
from collections.abc import Callable, Sequence

from runtime.exceptions import EngineStopped
from runtime.scheduler.loop import OnResult
from runtime.scheduler.requests import Request
from server.cluster.engine_link import AWAY, EngineLink


class EnginePool:
    """The interface of EngineLoop, over several links. Lives on the event loop's thread."""

    recovers = True

    def __init__(self, links: Sequence[EngineLink]):
        self._links = links
        self._of_stream: dict[str, EngineLink] = {}

    def on_lost(self, tell: Callable[[list[str], str], None]) -> None:
        """Have `tell` called with the streams that are lost with an engine process, and with a sentence for them."""
        for link in self._links:
            link.on_lost = tell

    def start(self) -> None:
        for link in self._links:
            link.start()

    @property
    def alive(self) -> bool:
        """Is any?"""
        return any(link.alive for link in self._links)

    @property
    def sessions_elsewhere(self) -> int:
        return sum(link.sessions_elsewhere for link in self._links)

    async def until_alive(self) -> None:
        """The first of them for the first time."""
        waiting = [asyncio.ensure_future(link.until_alive()) for link in self._links]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()

    def seconds_in_step(self) -> float:
        """Of the engine that is doing best: one that hangs is no reason to end the others."""
        return min(link.seconds_in_step() for link in self._links)

    def open_stream(self, stream_id: str) -> None:
        """Raises EngineStopped while there is no engine process."""
        links = [link for link in self._links if link.alive]
        if not links:
            raise EngineStopped(AWAY)
        link = min(links, key=lambda each: each.load)
        link.open_stream(stream_id)
        self._of_stream[stream_id] = link

    def submit(self, request: Request, on_result: OnResult) -> None:
        """See EngineLoop.submit; the request's stream must be open."""
        self._of_stream[request.stream_id].submit(request, on_result)

    def close_stream(self, stream_id: str) -> None:
        if link := self._of_stream.pop(stream_id, None):
            link.close_stream(stream_id)

    def stop(self) -> None:
        for link in self._links:
            link.stop()
