"""A whole recording: heard in stretches side by side, behind whoever is speaking, and told in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from runtime.audio import SAMPLE_RATE
from server.errors import Code, ServerError
from server.sessions.chunks import Stretch, Stretches
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options
from server.stream.transcript import Segment
from server.stream.words import Word

BeginStretch = Callable[[str, bytes, Callable[[Event], bool], Options], Callable[[], None]]
"""stream_id, pcm, say, options: has a stream of that name hear all of it. Returns what ends the stream. Raises ServerError."""


@dataclass(frozen=True)
class Heard:
    """One stretch. Times are of the recording."""

    text: str
    segments: tuple[Segment, ...]
    end_ms: int


class Recording:
    """One recording among the sessions. It ends by drop(), whatever came of it."""

    def __init__(self, session_id: str, begin_stretch: BeginStretch, on_end: Callable[[], None]):
        self.session_id = session_id
        self.backlog_seconds = 0.0  # it waits on purpose
        self._begin_stretch, self._on_end = begin_stretch, on_end
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stretches = 0

    async def transcribe(self, audio: AsyncIterator[bytes], words: bool, parallel: int) -> AsyncGenerator[Heard, None]:
        """audio: PCM16 mono at 16 kHz. Yields what was heard, in order. Raises ServerError."""
        options = Options(words=words, is_file=True)
        tasks: deque[asyncio.Task[Heard]] = deque()
        try:
            async for stretch in stretches_of(audio):
                tasks.append(asyncio.create_task(self._hear(stretch, options)))
                if len(tasks) >= parallel:
                    yield await self._first_of(tasks)
            while tasks:
                yield await self._first_of(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first_of(self, tasks: "deque[asyncio.Task[Heard]]") -> Heard:
        """What the first task heard; raises what the recording failed with, should that come before."""
        either: set[asyncio.Future[Any]] = {tasks[0], self._failed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        return tasks.popleft().result()

    async def _hear(self, stretch: Stretch, options: Options) -> Heard:
        final: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()

        def say(event: Event) -> bool:
            if isinstance(event, Final):
                final.set_result(heard_of(event, stretch.start))
            elif isinstance(event, Failed):
                final.set_exception(ServerError(event.code, event.message))
            return True

        self._stretches += 1
        end = self._begin_stretch(f"{self.session_id}.{self._stretches}", stretch.pcm, say, options)
        try:
            return await final
        finally:
            end()

    # A member of the sessions

    def on_time(self, now: float) -> None:
        """It may wait for as long as others speak."""

    def finish(self, now: float) -> None:
        self.fail(ServerError(Code.SHUTTING_DOWN, "the server is shutting down"))

    def fail(self, error: ServerError) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # it is known: whoever waits for a stretch is told

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self._on_end()


async def stretches_of(audio: AsyncIterator[bytes]) -> AsyncIterator[Stretch]:
    stretches = Stretches()
    async for pcm in audio:
        for stretch in stretches.take(pcm):
            yield stretch
    for stretch in stretches.finish():
        yield stretch


def heard_of(final: Final, start: int) -> Heard:
    """start: position of the stretch in the recording."""
    start_ms = start * 1000 // SAMPLE_RATE
    return Heard(final.text, tuple(moved(segment, start_ms) for segment in final.segments), start_ms + final.audio_ms)


def moved(segment: Segment, by_ms: int) -> Segment:
    words = segment.words and tuple(Word(word.w, word.start_ms + by_ms, word.end_ms + by_ms) for word in segment.words)
    return replace(segment, start_ms=segment.start_ms + by_ms, end_ms=segment.end_ms + by_ms, words=words)
