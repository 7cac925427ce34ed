"""A stream that loses its connection, its server, or both: no word is lost, none is told twice, and times go on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moonshine_client import StreamError, StreamingClient
from moonshine_client.transcripts import Message
from runtime.scheduler.requests import Request
from runtime.scheduler.transcriber import OnResult, Status
from server.app import create_app
from server.sessions.registry import Sessions
from server.settings import Settings
from server.startup import listen
from server.telemetry.metrics import Metrics
from tests.moonshine_client import counting
from tests.server.sessions.test_registry import FakeTranscriber

pytestmark = pytest.mark.slow

COUNT = 40
SOUND = counting.sound(COUNT)
FRAME_BYTES = 3200
LONGEST_WAIT_SECONDS = 60.0


@dataclass
class Server:
    address: str
    sessions: Sessions
    transcriber: FakeTranscriber


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Server]:
    asked, metrics, transcriber = Settings(), Metrics(), FakeTranscriber(answers=counting.hear)
    sessions = Sessions(transcriber, counting.TOKENIZER, asked, metrics)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(sessions, metrics, asked), log_level="warning", ws="websockets-sansio")
    serves = uvicorn.Server(config)
    serves.capture_signals = contextlib.nullcontext
    serving = asyncio.create_task(serves.serve([listener]))
    await sessions.until_warm()
    while not serves.started:  # noqa: ASYNC110 - uvicorn offers nothing to wait on
        await asyncio.sleep(0)
    try:
        yield Server(f"127.0.0.1:{listener.getsockname()[1]}", sessions, transcriber)
    finally:
        await sessions.finish_all(timeout_seconds=0.0)  # as a gateway does: uvicorn waits for every session
        serves.should_exit = True
        await serving


class Relay:
    """Passes connections on, until it cuts them."""

    def __init__(self, address: str):
        host, port = address.split(":")
        self._to = (host, int(port))
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.is_deaf = False
        """Does what it takes go nowhere?"""
        self.flows = asyncio.Event()  # cleared: nothing is read any more
        self.flows.set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *exc_info: object) -> None:
        self.cut()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there = await asyncio.open_connection(*self._to)
        self._writers |= {writer, there[1]}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass_on(reader, there[1]), self._pass_on(there[0], writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self.flows.wait()
            if not self.is_deaf:
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


def play(scenario: Callable) -> None:
    async def run() -> None:
        async with running() as server:
            await asyncio.wait_for(scenario(server), LONGEST_WAIT_SECONDS)

    asyncio.run(run())


async def speak(client: StreamingClient, before_frame: Callable[[int], None] = lambda number: None) -> Message:
    for number, start in enumerate(range(0, len(SOUND), FRAME_BYTES)):
        before_frame(number)
        await client.send(SOUND[start : start + FRAME_BYTES])
        await asyncio.sleep(0)
    return await client.close()


def check(final: Message) -> None:
    assert final["op"] == "final" and final["text"] == counting.text(COUNT) and final["stable"] == len(final["text"])
    assert final["audio_ms"] == len(SOUND) // 32
    segments = final["segments"]
    assert " ".join(segment["text"] for segment in segments) == final["text"]
    for before, after in zip(segments, segments[1:], strict=False):
        assert before["start_ms"] < before["end_ms"] <= after["start_ms"]


FRAMES = len(SOUND) // FRAME_BYTES


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.sets(st.integers(0, FRAMES - 1), max_size=4))
def test_whenever_connections_are_cut_every_word_is_told_once(cuts):
    async def scenario(server: Server) -> None:
        relay = Relay(server.address)
        async with relay as cuttable, StreamingClient(cuttable, transport="websocket") as client:
            check(await speak(client, lambda number: relay.cut() if number in cuts else None))

    play(scenario)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.sets(st.integers(0, FRAMES // 4 - 1), max_size=3), delay_ms=st.sampled_from([0, 350, 5000]))
def test_whenever_connections_are_cut_every_word_of_each_channel_is_told_once(cuts, delay_ms):
    """The second channel says half as many numbers, and later, so that its segments close at other times."""
    first = np.frombuffer(SOUND, np.int16)[: len(SOUND) // 4]
    second = np.concatenate([np.zeros(delay_ms * 16, np.int16), first[: len(first) // 2]])
    both = np.stack([first, np.pad(second[: len(first)], (0, max(0, len(first) - len(second))))], axis=1).tobytes()

    async def scenario(server: Server) -> None:
        relay = Relay(server.address)
        async with relay as cuttable, StreamingClient(cuttable, transport="websocket", channels=2) as client:
            for number, start in enumerate(range(0, len(both), 2 * FRAME_BYTES)):
                if number in cuts:
                    relay.cut()
                await client.send(both[start : start + 2 * FRAME_BYTES])
                await asyncio.sleep(0)
            final = await client.close()
        assert [each["text"] for each in final["channels"]] == [counting.text(COUNT // 2), counting.text(COUNT // 4)]
        assert final["audio_ms"] == len(first) // 16 and [each["channel"] for each in final["channels"]] == [0, 1]
        starts = [segment["start_ms"] for segment in final["segments"]]
        assert starts == sorted(starts) and {segment["channel"] for segment in final["segments"]} == {0, 1}

    play(scenario)


def test_an_engine_that_is_lost_over_webrtc_is_healed_too():
    async def scenario(server: Server) -> None:
        def lose(number: int) -> None:
            if number == FRAMES // 2:
                (on_lost,) = server.transcriber.lost.values()
                on_lost("the engine process has died")

        async with StreamingClient(server.address, transport="webrtc") as client:
            check(await speak(client, lose))

    play(scenario)


def test_a_server_that_falls_silent_is_left_within_seconds():
    async def scenario(server: Server) -> None:
        relay, loop = Relay(server.address), asyncio.get_running_loop()
        async with relay as cuttable, StreamingClient([cuttable, server.address], transport="websocket") as client:
            await client.send(SOUND[: 4 * FRAME_BYTES])
            await asyncio.sleep(0.3)  # the first pulse
            relay.is_deaf, began = True, loop.time()
            for start in range(4 * FRAME_BYTES, len(SOUND), FRAME_BYTES):
                await client.send(SOUND[start : start + FRAME_BYTES])
            check(await client.close())
            assert loop.time() - began < 5.5

    play(scenario)


def test_a_stream_moves_from_a_server_that_drains_to_another():
    async def scenario(server: Server) -> None:
        async with running() as other:
            draining: list[asyncio.Task] = []

            def drain(number: int) -> None:
                if number == FRAMES // 2:
                    draining.append(asyncio.create_task(server.sessions.drain(30.0)))

            async with StreamingClient([server.address, other.address], transport="websocket") as client:
                check(await speak(client, drain))
                assert len(other.sessions) == 0
            await asyncio.wait_for(draining[0], 5.0)

    play(scenario)


def test_a_stream_that_can_move_nowhere_stays_until_the_end():
    async def scenario(server: Server) -> None:
        draining: list[asyncio.Task] = []

        def drain(number: int) -> None:
            if number == 10:
                draining.append(asyncio.create_task(server.sessions.drain(30.0)))

        async with StreamingClient(server.address, transport="websocket") as client:
            check(await speak(client, drain))

    play(scenario)


def test_a_flush_is_answered_across_a_cut():
    async def scenario(server: Server) -> None:
        relay = Relay(server.address)
        async with relay as cuttable, StreamingClient(cuttable, transport="websocket") as client:
            half = 20 * len(SOUND) // COUNT
            for start in range(0, half, FRAME_BYTES):
                await client.send(SOUND[start : min(half, start + FRAME_BYTES)])
            flushing = asyncio.create_task(client.flush())
            await asyncio.sleep(0)
            relay.cut()
            flushed = await flushing
            assert flushed["text"] == counting.text(20) and flushed["audio_ms"] == half // 32
            await client.send(SOUND[half:])
            check(await client.close())

    play(scenario)


def test_a_loss_that_cannot_be_healed_keeps_the_stable_text():
    async def scenario(server: Server) -> None:
        relay, troubles = Relay(server.address), []
        options = {"transport": "websocket", "resume_seconds": 1.0, "on_trouble": troubles.append}
        async with relay as cuttable, StreamingClient(cuttable, **options) as client:
            await client.send(SOUND[: len(SOUND) // 2])
            async for interim in client:
                if interim["stable"]:
                    break
            await relay.__aexit__()
            with pytest.raises(StreamError, match="connection_lost") as lost:
                await client.outcome()
            assert lost.value.text.startswith("0 1 2") and troubles

    play(scenario)


def test_a_full_server_is_tried_again_in_its_time():
    async def scenario(server: Server) -> None:
        relay = Relay(server.address)
        async with relay as cuttable, StreamingClient(cuttable, transport="websocket") as client:
            await client.send(SOUND[:FRAME_BYTES])
            server.transcriber.sessions_elsewhere = 1000
            relay.cut()
            before = relay.connections
            while relay.connections == before:  # noqa: ASYNC110 - the relay has nothing to wait on
                await asyncio.sleep(0.01)
            server.transcriber.sessions_elsewhere = 0
            for start in range(FRAME_BYTES, len(SOUND), FRAME_BYTES):
                await client.send(SOUND[start : start + FRAME_BYTES])
            check(await client.close())

    play(scenario)


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
def test_a_client_waits_for_a_server_that_is_about_to_be_ready(transport):
    async def connect() -> str:
        async with running() as server:
            server.transcriber.said = Status.RESTARTING

            def mend(trouble: str) -> None:
                server.transcriber.said = Status.READY

            async with StreamingClient(server.address, transport=transport, on_trouble=mend) as client:
                return (await speak(client))["text"]

    assert asyncio.run(connect()) == counting.text(COUNT)


@pytest.mark.parametrize("refused_seconds", [0, 1])
def test_a_server_that_does_not_get_ready_is_given_up_by_name(refused_seconds):
    async def connect() -> int:
        troubles: list[str] = []
        async with running() as server:
            server.transcriber.said = Status.RESTARTING
            with pytest.raises(StreamError) as refused:
                client = StreamingClient(server.address, refused_seconds=refused_seconds, on_trouble=troubles.append)
                await client.__aenter__()
        assert refused.value.reason == "warming_up"
        return len(troubles)

    assert asyncio.run(connect()) == refused_seconds, "once at once, and then not before it was asked to"


def test_a_client_that_comes_back_with_minutes_of_audio_does_not_overrun_the_server():
    """It used to lose the session, with no text kept: more waited than a server lets wait."""
    minutes = SOUND * 5

    async def scenario(server: Server) -> None:
        loop = asyncio.get_running_loop()

        def answer_later(request: Request, on_result: OnResult) -> None:
            loop.call_later(0.25, on_result, counting.hear(request))

        server.transcriber.submit = answer_later
        async with StreamingClient(server.address, transport="webrtc") as client:
            await client.send(minutes[:64_000])
            await asyncio.sleep(1.5)  # the first pulse
            await client.send(minutes[64_000:])
            final = await client.close()
            assert final["text"] == " ".join([counting.text(COUNT)] * 5) and final["audio_ms"] == len(minutes) // 32

    play(scenario)


def test_a_socket_that_is_left_while_it_is_full_holds_nobody_up():
    async def scenario(server: Server) -> None:
        relay = Relay(server.address)
        async with relay as cuttable, StreamingClient([cuttable, server.address], transport="websocket") as client:
            await client.send(SOUND[:FRAME_BYTES])
            await asyncio.sleep(0.3)  # the first pulse
            relay.flows.clear()
            for _ in range(40):  # more than any buffer on the way takes
                await client.send(bytes(FRAME_BYTES * 10))
            assert (await client.close())["op"] == "final"

    play(scenario)
