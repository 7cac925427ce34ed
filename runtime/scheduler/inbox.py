"""The inbox of the engine loop: other code puts messages in, and the loop waits for them."""

import queue
from collections.abc import Iterator
from typing import Protocol


class Inbox(Protocol):
    def put(self, message: object) -> None:
        """Add a message. May be called on any thread."""

    def take(self, timeout_seconds: float | None) -> Iterator[object]:
        """Return the messages in order; waits for the first one at most this long (None: without limit). For the loop's thread.
        May return no message before the time is up."""

    def flush(self) -> None:
        """Send what callbacks have left here; called after all callbacks of the results at hand. For the loop's thread."""


class QueueInbox(Inbox):
    """An inbox for messages of this process."""

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

    def flush(self) -> None:
        """No-op: callbacks leave nothing here."""
