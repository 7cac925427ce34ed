"""A whole recording: transcribed in parallel chunks, after live speech, and returned in order."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from runtime.audio import SAMPLE_RATE
from server.audio import container
from server.errors import Code, ServerError
from server.sessions.chunks import Chunk, Chunks
from server.sessions.record import FINISHED
from server.sessions.session import SeatInterface, Session
from server.settings import Files
from server.stream.events import Event, Failed, Final
from server.stream.stream import Options
from server.stream.transcript import Segment


@dataclass(frozen=True)
class ChunkText:
    """Text of one chunk. Times count from the start of the recording."""

    text: str
    segments: tuple[Segment, ...]
    end_ms: int
    channel: int | None = None
    """The channel, counted from 0; None if channels are mixed."""


@dataclass(frozen=True)
class RecordingText:
    """A whole recording, transcribed. Segments of several channels are in order of time."""

    text: str
    segments: tuple[Segment, ...]
    seconds: float


class Recording(Session):
    """A session that gets all its audio at once, faster than speech. It may wait for as long as others speak."""

    has_time_limit = False  # it has its own limit: ASR_MAX_FILE_SECONDS

    def __init__(self, seat: SeatInterface):
        super().__init__(seat, idle_seconds=math.inf)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def transcribe(self, audio: AsyncIterator[bytes], options: Options, parallel: int) -> AsyncGenerator[ChunkText, None]:
        """Yield the texts of the chunks, in order.

        audio: PCM16 mono at 16 kHz. parallel: most chunks at once. Raises ServerError.
        """
        with self._ends_with_this():
            async for text in self._transcribe_chunks(audio, options, parallel):
                yield text

    async def transcribe_file(
        self, file: BinaryIO, files: Files, options: Options, channels: Sequence[int | None] = (None,)
    ) -> AsyncGenerator[ChunkText, None]:
        """Transcribe a file of any format, one channel after the other; None means all of them mixed.

        Raises ServerError, also if the file cannot be decoded.
        """
        with self._ends_with_this():
            for channel in channels:
                file.seek(0)
                audio = container.decode(file, files.max_file_seconds, channel)
                async with (
                    contextlib.aclosing(audio),
                    contextlib.aclosing(self._transcribe_chunks(audio, options, files.parallel_chunks)) as texts,
                ):
                    async for text in texts:
                        yield in_channel(text, channel)

    @contextlib.contextmanager
    def _ends_with_this(self) -> Iterator[None]:
        try:
            yield
            self._end(FINISHED)
        except ServerError as error:
            self.fail(error)
            raise

    async def _transcribe_chunks(
        self, audio: AsyncIterator[bytes], options: Options, parallel: int
    ) -> AsyncGenerator[ChunkText, None]:
        options = replace(options, is_file=True)
        tasks: deque[asyncio.Task[ChunkText]] = deque()
        try:
            async for chunk in chunks_of(audio):
                tasks.append(asyncio.create_task(self._transcribe_chunk(chunk, options)))
                if len(tasks) >= parallel:
                    yield await self._first_of(tasks)
            while tasks:
                yield await self._first_of(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first_of(self, tasks: "deque[asyncio.Task[ChunkText]]") -> ChunkText:
        """Return the text of the first task. Raises the error of the recording if that comes first."""
        either: set[asyncio.Future[Any]] = {tasks[0], self._failed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        return tasks.popleft().result()

    async def _transcribe_chunk(self, chunk: Chunk, options: Options) -> ChunkText:
        """Raises ServerError."""
        final: asyncio.Future[ChunkText] = asyncio.get_running_loop().create_future()

        def say(event: Event) -> bool:
            if isinstance(event, Final):
                final.set_result(text_of(event, chunk.start))
            elif isinstance(event, Failed):
                final.set_exception(ServerError(event.code, event.message))
            return True

        text = replace(options.text, is_cut_before=chunk.start > 0, is_cut_after=not chunk.is_last)
        transcribing = self.seat.transcribe_all(chunk.pcm, say, replace(options, text=text))
        try:
            return await final
        finally:
            self.seat.close_stream(transcribing)

    # A session among others

    def write(self, event: Event, channel: int) -> bool:
        """Unused: each chunk has its own stream, whose events go to the task that waits for the chunk."""
        raise NotImplementedError

    def write_error(self, error: ServerError) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # marks it as retrieved: the task that waits for a chunk gets it

    def finish_unstarted(self, now: float) -> None:
        self.fail(ServerError(Code.SHUTTING_DOWN, "the server is shutting down"))


async def chunks_of(audio: AsyncIterator[bytes]) -> AsyncIterator[Chunk]:
    chunks = Chunks()
    async for pcm in audio:
        for chunk in chunks.take(pcm):
            yield chunk
    for chunk in chunks.finish():
        yield chunk


async def whole(texts: AsyncIterator[ChunkText]) -> RecordingText:
    return joined([text async for text in texts])


def joined(texts: Sequence[ChunkText]) -> RecordingText:
    """Join the chunks of a recording, in their order or, of several channels, in the order of their segments."""
    segments = [segment for each in texts for segment in each.segments]
    words = [each.text for each in texts]
    if any(each.channel is not None for each in texts):
        segments.sort(key=lambda segment: (segment.start_ms, segment.channel))
        words = [segment.text for segment in segments]
    seconds = max((each.end_ms / 1000 for each in texts), default=0.0)
    return RecordingText(" ".join(filter(None, words)), tuple(segments), seconds)


def in_channel(text: ChunkText, channel: int | None) -> ChunkText:
    return replace(text, channel=channel, segments=tuple(replace(segment, channel=channel) for segment in text.segments))


def text_of(final: Final, start: int) -> ChunkText:
    """Return the text of a chunk. start: its position in the recording."""
    start_ms = start * 1000 // SAMPLE_RATE
    return ChunkText(final.text, tuple(moved(segment, start_ms) for segment in final.segments), start_ms + final.audio_ms)


def moved(segment: Segment, by_ms: int) -> Segment:
    words = segment.words and tuple(word.later(by_ms) for word in segment.words)
    return replace(segment, start_ms=segment.start_ms + by_ms, end_ms=segment.end_ms + by_ms, words=words)
