"""The interface of a transcriber: an engine loop of this process, or engine processes elsewhere."""

import enum
from collections.abc import Callable
from typing import Protocol

from runtime.scheduler.requests import Request, Result

OnResult = Callable[[Result], None]
OnLost = Callable[[str], None]
"""Told once, with a sentence, when a stream's engine is gone and the stream with it."""


class Status(enum.Enum):
    STARTING = "starting"
    """The engine is being opened or warmed up for the first time."""
    READY = "ready"
    RESTARTING = "restarting"
    """The engine was lost and is being started again by somebody."""
    HUNG = "hung"
    """The engine has been at one step for too long. It may come back, or be given up."""
    FAILED = "failed"
    """The engine is lost, or was given up, and nobody starts it again."""


class Transcriber(Protocol):
    """Callbacks may run on any thread and must only hand on what they are told."""

    async def run(self) -> None:
        """Start, and do what must be done meanwhile, until cancelled."""

    def stop(self) -> None:
        """Answer what is open with EngineStopped and end. Blocks; called on any thread."""

    def status(self) -> Status: ...

    @property
    def encodes_streams(self) -> bool:
        """True if the model is a streaming one: a clip that continues the last one costs what is new in it."""

    @property
    def sessions_elsewhere(self) -> int:
        """Sessions of other processes on the same engines."""

    def count_sessions(self, sessions: int) -> None:
        """Report the number of sessions in this process, so that other processes on the same engines can count them."""

    def open_stream(self, stream_id: str, on_lost: OnLost) -> None:
        """Let this stream submit requests. Raises EngineStopped if there is no engine for it."""

    def close_stream(self, stream_id: str) -> None:
        """Cancel what the stream has waiting or in flight. Harmless for an unknown stream."""

    def submit(self, request: Request, on_result: OnResult) -> None:
        """Queue a request of an open stream; on_result gets its result, once.

        Raises EngineStopped when there is no engine, ValueError for a clip longer than the engine takes.
        """
