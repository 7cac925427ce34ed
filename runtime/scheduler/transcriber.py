"""The interface of a transcriber: an engine loop of this process, or engine processes elsewhere."""

import enum
from collections.abc import Callable
from typing import Protocol

from runtime.scheduler.requests import Request, Result

OnResult = Callable[[Result], None]
OnLost = Callable[[str], None]
"""Called once, with a sentence, when a stream's engine is lost and the stream with it."""


class Status(enum.Enum):
    STARTING = "starting"
    """The engine is being opened or warmed up for the first time."""
    READY = "ready"
    RESTARTING = "restarting"
    """The engine was lost and is being started again."""
    HUNG = "hung"
    """One step of the engine has taken too long. The engine may recover, or be given up."""
    FAILED = "failed"
    """The engine is lost, or was given up, and is not started again."""


class Transcriber(Protocol):
    """Transcribes requests. Callbacks may run on any thread and must only pass on what they receive."""

    async def run(self) -> None:
        """Start, and do the background work until cancelled."""

    def stop(self) -> None:
        """Answer open requests with EngineStopped and end. Blocks; may be called on any thread."""

    def status(self) -> Status: ...

    @property
    def encodes_streams(self) -> bool:
        """True if the model is a streaming one: a clip that continues the last one costs only its new audio."""

    @property
    def sessions_elsewhere(self) -> int:
        """Sessions of other processes on the same engines."""

    def count_sessions(self, sessions: int) -> None:
        """Report the number of sessions in this process, so that other processes on the same engines can count them."""

    def open_stream(self, stream_id: str, on_lost: OnLost) -> None:
        """Let this stream submit requests. Raises EngineStopped if there is no engine for it."""

    def close_stream(self, stream_id: str) -> None:
        """Cancel the stream's requests, waiting or in flight. Harmless for an unknown stream."""

    def submit(self, request: Request, on_result: OnResult) -> None:
        """Queue a request of an open stream; on_result gets its result, once.

        Raises EngineStopped if there is no engine, ValueError for a clip longer than the engine accepts.
        """
