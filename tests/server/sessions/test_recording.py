"""A whole recording: told in order whatever is answered first, read no further ahead than it must be, never silently short."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Priority, Request, Result
from server.errors import Code, Refused, ServerError
from server.sessions.chunks import LONGEST_SECONDS
from server.sessions.recording import ChunkText, Recording
from server.sessions.registry import Sessions
from server.sessions.session import PLAIN
from server.settings import Access, Settings
from server.telemetry.metrics import Api, Metrics
from tests.server.sessions.test_registry import TOKENIZER, FakeTranscriber

PARALLEL = 3


class Waiting(FakeTranscriber):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Request, object]] = []

    def submit(self, request, on_result) -> None:
        self.asked.append((request, on_result))

    def answer(self, index: int) -> None:
        request, on_result = self.asked.pop(index)
        on_result(Result(request, (3,), (-0.1,)))


class Source:
    """A recording of loud noise, one second at a time."""

    def __init__(self, seconds: int):
        self.seconds, self.taken = seconds, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        random = np.random.default_rng(0)
        for _ in range(self.seconds):
            self.taken += 1
            await asyncio.sleep(0)
            yield random.integers(-8000, 8000, SAMPLE_RATE, dtype=np.int16).tobytes()


async def opened(transcriber: FakeTranscriber, places: int = 1) -> Sessions:
    sessions = Sessions(transcriber, TOKENIZER, Settings(access=Access(max_sessions=places)), Metrics())
    sessions.start()
    return sessions


async def collect(recording: Recording, source: Source, heard: list[ChunkText]) -> None:
    async for stretch in recording.transcribe(aiter(source), PLAIN, parallel=PARALLEL):
        heard.append(stretch)


async def settled() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


def test_stretches_are_told_in_order_whatever_is_answered_first():
    async def run() -> None:
        transcriber, heard = Waiting(), []
        recording = Recording((await opened(transcriber)).take_seat(Api.OPENAI_REST))
        task = asyncio.create_task(collect(recording, Source(200), heard))
        while not task.done():
            await settled()
            if transcriber.asked:
                transcriber.answer(-1)
        await task
        ends = [stretch.end_ms for stretch in heard]
        assert len(heard) >= 5 and ends == sorted(ends) and ends[-1] == 200_000
        starts = [segment.start_ms for stretch in heard for segment in stretch.segments]
        assert starts == sorted(starts)

    asyncio.run(run())


def test_it_goes_behind_live_speech_and_is_read_no_further_ahead_than_it_must_be():
    async def run() -> None:
        transcriber, source = Waiting(), Source(600)
        recording = Recording((await opened(transcriber)).take_seat(Api.OPENAI_REST))
        task = asyncio.create_task(collect(recording, source, []))
        await settled()
        for _ in range(20):
            await settled()
        assert {request.priority for request, _ in transcriber.asked} == {Priority.FILE}
        assert len({request.stream_id for request, _ in transcriber.asked}) == PARALLEL
        assert source.taken <= (PARALLEL + 1) * LONGEST_SECONDS
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not transcriber.lost, "every stream is closed"

    asyncio.run(run())


def test_an_engine_that_is_lost_fails_the_recording_by_name():
    async def run() -> None:
        transcriber = Waiting()
        recording = Recording((await opened(transcriber)).take_seat(Api.OPENAI_REST))
        task = asyncio.create_task(collect(recording, Source(100), []))
        while not transcriber.asked:
            await settled()
        next(iter(transcriber.lost.values()))("the engine is gone")
        with pytest.raises(ServerError) as failed:
            await task
        assert failed.value.code is Code.ENGINE_FAILED

    asyncio.run(run())


def test_a_recording_takes_one_place_and_gives_it_back():
    async def run() -> None:
        sessions = await opened(Waiting())
        recording = Recording(sessions.take_seat(Api.OPENAI_REST))
        with pytest.raises(Refused):
            sessions.take_seat(Api.OPENAI_REST)
        recording.drop()
        recording.drop()
        sessions.take_seat(Api.OPENAI_REST)

    asyncio.run(run())


def test_the_end_of_the_server_is_told():
    async def run() -> None:
        sessions = await opened(Waiting())
        recording = Recording(sessions.take_seat(Api.OPENAI_REST))
        task = asyncio.create_task(collect(recording, Source(100), []))
        await settled()
        recording.finish(0.0)
        with pytest.raises(ServerError) as failed:
            await task
        assert failed.value.code is Code.SHUTTING_DOWN

    asyncio.run(run())
