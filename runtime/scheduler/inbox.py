"""Where others leave messages for the engine loop, and where it waits for them."""

import queue
from collections.abc import Iterator
from typing import Protocol


class Inbox(Protocol):
    def put(self, message: object) -> None:
        """From any thread."""

    def take(self, timeout_seconds: float | None) -> Iterator[object]:
        """What has come in, in order; waits for the first message as long as it may (None: for any time). Of the loop's thread.
        It may find nothing before the time is up."""


class QueueInbox(Inbox):
    """Of this process alone."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue = queue.SimpleQueue()

    def put(self, message: object) -> None:
        self._queue.put(message)

    def take(self, timeout_seconds: float | None) -> Iterator[object]:
        try:
            yield self._queue.get(timeout=timeout_seconds) if timeout_seconds != 0.0 else self._queue.get_nowait()
            while True:
                yield self._queue.get_nowait()
        except queue.Empty:
            return
