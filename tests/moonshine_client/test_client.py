"""The client against a server in the same event loop, with an engine that hears nothing: what is said when something ends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import numpy as np
import pytest
import uvicorn
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.harness.null_server import NullEngine
from moonshine_client import StreamError, StreamingClient, transcribe
from moonshine_client.transcripts import Message
from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server.app import create_app
from server.errors import Code, ServerError
from server.sessions.registry import Sessions
from server.settings import Settings
from server.startup import listen
from server.telemetry.metrics import Metrics

FRAME = bytes(640)
LONGEST_WAIT_SECONDS = 20.0


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[str, Sessions]]:
    """A server, ready; yields HOST:PORT and its sessions."""
    settings, metrics = Settings(), Metrics()
    sessions = Sessions(EngineLoop(NullEngine(4), 0.0, metrics), Tokenizer(["", "", ""]), settings, metrics)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(sessions, metrics, settings), log_level="warning"))
    server.capture_signals = contextlib.nullcontext
    serving = asyncio.create_task(server.serve([listener]))
    await asyncio.wait_for(sessions_are_taken(sessions, server), LONGEST_WAIT_SECONDS)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", sessions
    finally:
        server.should_exit = True
        await serving


async def sessions_are_taken(sessions: Sessions, server: uvicorn.Server) -> None:
    await sessions.until_warm()
    while not server.started:  # noqa: ASYNC110 - uvicorn offers nothing to wait on
        await asyncio.sleep(0)


def play(scenario) -> None:
    async def run() -> None:
        async with running() as (address, sessions):
            await asyncio.wait_for(scenario(address, sessions), LONGEST_WAIT_SECONDS)

    asyncio.run(run())


def test_a_sender_gets_the_final_when_the_server_shuts_down():
    """It used to be lost: the channel was closing, and sending raised aiortc's InvalidStateError."""

    async def scenario(address: str, sessions: Sessions) -> None:
        async with StreamingClient(address, resume_seconds=0) as client:
            assert await client.send(FRAME) is None
            stopping = asyncio.create_task(sessions.shut_down(timeout_seconds=5.0))
            final = None
            while final is None:
                final = await client.send(FRAME)
                await asyncio.sleep(0)
            assert final["op"] == "final" and await client.close() == final
            await stopping

    play(scenario)


def test_a_sender_hears_why_the_stream_failed():
    async def scenario(address: str, sessions: Sessions) -> None:
        async with StreamingClient(address, resume_seconds=0) as client:
            sessions.fail_all(ServerError(Code.ENGINE_FAILED, "the engine has stopped"))
            with pytest.raises(StreamError, match="engine_failed: the engine has stopped") as failed:
                while await client.send(FRAME) is None:  # noqa: ASYNC110 - until the server has been heard
                    await asyncio.sleep(0)
            assert failed.value.text == "" and failed.value.details["sid"] == client.sid
            with pytest.raises(StreamError, match="engine_failed"):
                await client.close()

    play(scenario)


def test_a_recording_ends_early_with_the_server():
    async def scenario(address: str, sessions: Sessions) -> None:
        def stop(seconds: float) -> None:
            if seconds >= 0.2 and not stopping:
                stopping.append(asyncio.create_task(sessions.shut_down(timeout_seconds=5.0)))

        stopping: list[asyncio.Task] = []
        done = await transcribe(address, np.zeros(16_000 * 30, np.int16), on_sent=stop, resume_seconds=0)
        assert done.final["op"] == "final" and done.audio_seconds < 30

    play(scenario)


@pytest.mark.parametrize(("max_interims", "kept"), [(1, [999]), (None, [*range(1000)])], ids=["the newest", "all"])
def test_interims_that_nobody_reads_are_kept_as_far_as_that_is_asked_for(max_interims, kept):
    async def scenario() -> None:
        async with serve(send_a_thousand_interims, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with StreamingClient(address, transport="websocket", max_interims=max_interims) as client:
                await client.flush()  # answered after all interims
                await client.close()
                assert [each["seq"] async for each in client] == kept

    asyncio.run(asyncio.wait_for(scenario(), LONGEST_WAIT_SECONDS))


async def send_a_thousand_interims(link: ServerConnection) -> None:
    """Play a server that has much to say before it answers a flush."""
    about = {"sid": "a", "text": "a", "stable": 0, "audio_ms": 1, "latency_ms": 1.0}
    async for text in link:
        match json.loads(text)["op"]:
            case "init":
                await link.send(json.dumps({"op": "ready", "sid": "a"}))
            case "flush":
                for number in range(1000):
                    await link.send(json.dumps({"op": "interim", "seq": number, **about}))
                await link.send(json.dumps({"op": "flushed", "segments": [], **about}))
            case "close":
                await link.send(json.dumps({"op": "final", "segments": [], **about}))


def test_a_server_that_is_not_there_is_named():
    async def connect() -> Message:
        async with StreamingClient("127.0.0.1:1") as client:
            return await client.close()

    with pytest.raises(OSError, match="no server at http://127.0.0.1:1/webrtc: .+"):
        asyncio.run(connect())


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    """A time-out used to say nothing at all."""
    monkeypatch.setattr("moonshine_client.client.CONNECT_SECONDS", 0.2)

    async def connect() -> None:
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(1), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        async with silent, StreamingClient(f"127.0.0.1:{port}"):
            raise AssertionError("nobody answered")

    with pytest.raises(OSError, match="127.0.0.1:.+"):
        asyncio.run(connect())
