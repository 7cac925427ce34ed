"""The AudioSocket transport: Asterisk connects by TCP, one connection for each call."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

from server.access import ANYONE, Caller
from server.apis.audiosocket.messages import HEADER
from server.apis.audiosocket.session import CallSession
from server.apis.broadcast.broadcasts import Broadcasts, new_session_id
from server.errors import Refused
from server.http.access_control import network_of
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics

logger = logging.getLogger(__name__)

FRAME_SECONDS = 10.0  # limit for a frame from its start to its end, and for the first one to begin
MAX_CONNECTIONS = 256  # they share the process's files with those of HTTP


@contextlib.asynccontextmanager
async def serving(
    broadcasts: Broadcasts, sessions: Sessions, metrics: Metrics, settings: Settings, listener: socket.socket
) -> AsyncIterator[None]:
    """Accept calls within the context."""
    tasks = set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None, "asyncio makes one for each connection"
        tasks.add(task)
        try:
            await run_call(reader, sessions, broadcasts, settings, address_of(writer))
        finally:
            tasks.remove(task)
            writer.transport.abort()

    async with await asyncio.start_server(accept, sock=listener):
        yield


def address_of(writer: asyncio.StreamWriter) -> str:
    peer = writer.get_extra_info("peername")
    return network_of(peer[0]) if peer else ""


async def run_call(
    reader: asyncio.StreamReader, sessions: Sessions, broadcasts: Broadcasts, settings: Settings, address: str
) -> None:
    """Serve one connection until Asterisk or the session ends it."""
    ended = asyncio.Event()
    try:
        seat = sessions.take_seat(
            Api.AUDIOSOCKET,
            Caller(ANYONE.name, address=address),
            ended.set,
            waits=True,
            session_id=new_session_id(Api.AUDIOSOCKET),
        )
    except Refused as refused:
        logger.warning("a call of Asterisk is not transcribed: %s", refused)
        return

    def publish(name: str) -> None:
        broadcasts.publish(broadcasts.begin(Api.AUDIOSOCKET, seat.session_id, name, session))

    session = CallSession(seat, settings.session, publish)
    reading = asyncio.create_task(read(reader, seat))
    ending = asyncio.create_task(ended.wait())
    await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
    for task in (reading, ending):
        task.cancel()
    await asyncio.gather(reading, ending, return_exceptions=True)
    seat.finish()  # the words are read elsewhere, up to the end


async def read(reader: asyncio.StreamReader, seat: Seat) -> None:
    """Pass on frames until the connection ends, or one is too slow."""
    seconds: float | None = FRAME_SECONDS
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        while True:
            async with asyncio.timeout(seconds):
                kind = await reader.readexactly(1)
            async with asyncio.timeout(FRAME_SECONDS):
                _, length = HEADER.unpack(kind + await reader.readexactly(HEADER.size - 1))
                payload = await reader.readexactly(length)
            seat.receive_audio(kind + payload)
            await seat.until_ready()
            seconds = None  # a session has a limit of its own for silence
