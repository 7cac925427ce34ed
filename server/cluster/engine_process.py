"""The engine process: one engine loop, and a socket where gateway processes bring their streams.

It keeps each stream's open segment, so that audio crosses once.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import uvloop
import zmq

from runtime.audio import Clip
from runtime.engine.protocol import Engine
from runtime.exceptions import EngineError, EngineFailed
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.requests import Result
from runtime.scheduler.transcriber import Status
from server.cluster import messages
from server.cluster.messages import (
    LOST_SECONDS,
    PULSE_SECONDS,
    SOCKET_VARIABLE,
    EnginePulse,
    GatewayPulse,
    HeldAudio,
    StreamClosed,
    StreamOpened,
    Transcribe,
)
from server.settings import Settings
from server.startup import open_for_serving, started
from server.telemetry.heartbeat import beating, exit_at_once
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import exporting

logger = logging.getLogger("server.engine")

NO_AUDIO = Clip(np.zeros(0, np.int16))
MESSAGES_AT_ONCE = 32
SWITCH_SECONDS = 2e-4  # every call to the device gives the interpreter up, and waits this long for the other thread to do so
STOPPED_STATUS = 4  # of an engine that was given up: the supervisor starts another


@dataclass
class KnownGateway:
    """One gateway process, as far as it is known here."""

    heard_at: float
    sessions: int = 0
    streams: dict[str, HeldAudio] = field(default_factory=dict)


class EngineServer:
    """Carries messages between gateways and the engine loop. Lives on the event loop's thread."""

    def __init__(
        self,
        engine_loop: EngineLoop,
        max_samples: int,
        send: Callable[[bytes, bytes], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        """send: takes a gateway's identity and a message for it."""
        self._engine_loop = engine_loop
        self._max_samples = max_samples
        self._send = send
        self._clock = clock
        self._epoch = uuid.uuid4().hex
        self._gateways: dict[bytes, KnownGateway] = {}
        self._request_ids = itertools.count()

    def receive(self, identity: bytes, message: messages.ToEngine) -> None:
        """A message from a gateway."""
        now = self._clock()
        gateway = self._gateways.setdefault(identity, KnownGateway(now))
        gateway.heard_at = now
        match message:
            case GatewayPulse(sessions):
                gateway.sessions = sessions
            case StreamOpened(stream_id):
                gateway.streams[stream_id] = HeldAudio()
                self._engine_loop.open_stream(unique_name(identity, stream_id))
            case StreamClosed(stream_id):
                if gateway.streams.pop(stream_id, None) is not None:
                    self._engine_loop.close_stream(unique_name(identity, stream_id))
            case Transcribe():
                self._transcribe(identity, gateway, message)

    def _transcribe(self, identity: bytes, gateway: KnownGateway, message: Transcribe) -> None:
        loop = asyncio.get_running_loop()

        def answer(result: Result) -> None:
            self._send(identity, messages.encode(messages.answer_of(result, message.asked.request_id)))

        def hand_over(result: Result) -> None:
            loop.call_soon_threadsafe(answer, result)

        asked = message.asked
        try:
            if asked.stream_id not in gateway.streams:
                raise EngineFailed("the engine process does not know this stream")
            clip = gateway.streams[asked.stream_id].clip_of(message.audio)
            request = messages.request_of(asked, clip, next(self._request_ids), unique_name(identity, asked.stream_id))
            self._engine_loop.submit(request, hand_over)
        except (EngineError, ValueError) as exc:
            error = exc if isinstance(exc, EngineError) else EngineFailed(str(exc))
            answer(Result(messages.request_of(asked, NO_AUDIO, asked.request_id, asked.stream_id), error=error))

    def beat(self) -> None:
        """Tell the gateways that this process is there, and give up those that are not."""
        now = self._clock()
        for identity, gateway in list(self._gateways.items()):
            if now - gateway.heard_at > LOST_SECONDS:
                logger.error("a gateway is gone, and %d streams with it", len(gateway.streams))
                for stream_id in gateway.streams:
                    self._engine_loop.close_stream(unique_name(identity, stream_id))
                del self._gateways[identity]
        sessions = sum(gateway.sessions for gateway in self._gateways.values())
        pulse = messages.encode(EnginePulse(self._epoch, self._engine_loop.status().value, self._max_samples, sessions))
        for identity in self._gateways:
            self._send(identity, pulse)


def unique_name(identity: bytes, stream_id: str) -> str:
    """Of a stream among those of all gateways."""
    return f"{identity.hex()}/{stream_id}"


Open = Callable[[Settings, Metrics], tuple[EngineLoop, Engine]]


async def serve(settings: Settings, address: str, parent: int, open_engine: Open) -> int:
    """Until SIGTERM or the end of the supervisor, the process `parent`; returns the exit status."""
    metrics = Metrics()
    engine_loop, engine = open_engine(settings, metrics)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    engine_loop.start()
    mailbox = Mailbox(address)
    server = EngineServer(engine_loop, engine.limits.max_samples, mailbox.send)
    mailbox.receive(server.receive)
    logger.info("the engine process is there")

    def goes_on() -> bool:
        return not stopping.is_set() and os.getppid() == parent and engine_loop.status() is not Status.FAILED

    with exporting(metrics.registry):
        async with beating(metrics.loop_lag.observe):
            while goes_on():
                server.beat()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), PULSE_SECONDS)
    status = STOPPED_STATUS if engine_loop.status() is Status.FAILED else 0
    await asyncio.to_thread(engine_loop.stop)
    mailbox.close()
    return status


class Mailbox:
    """The socket where gateways bring their messages; on the event loop's thread.

    pyzmq's own asyncio takes several times as long for a message, on the thread that competes with the engine's.
    """

    def __init__(self, address: str):
        self._loop = asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.bind(address)
        self._told = int(self._socket.getsockopt(zmq.FD))
        self._is_looking = False

    def receive(self, take: Callable[[bytes, messages.ToEngine], None]) -> None:
        """From now on hand every message to `take`."""
        self._take = take
        self._loop.add_reader(self._told, self._look)
        self._look_soon()

    def send(self, identity: bytes, data: bytes) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart([identity, data], zmq.NOBLOCK)
        self._look_soon()

    def _look_soon(self) -> None:
        """The file descriptor tells of a change once, and whatever is done on the socket may have used that up."""
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Take some, then let others have their turn: the pulse must go out however much comes in."""
        self._is_looking = False
        for _ in range(MESSAGES_AT_ONCE):
            try:
                identity, data = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(identity, messages.decode_to_engine(data))
            except Exception:  # one message that cannot be used must not silence all streams
                logger.exception("a message of a gateway could not be taken")
        self._look_soon()

    def close(self) -> None:
        self._loop.remove_reader(self._told)
        self._socket.close()


def open_configured(settings: Settings, metrics: Metrics) -> tuple[EngineLoop, Engine]:
    engine_loop, engine, _ = open_for_serving(settings, metrics)
    return engine_loop, engine


def run(settings: Settings, parent: int, open_engine: Open = open_configured) -> int:
    sys.setswitchinterval(SWITCH_SECONDS)
    status = uvloop.run(serve(settings, os.environ[SOCKET_VARIABLE], parent, open_engine))
    if status == STOPPED_STATUS:
        exit_at_once(status)
    return status


if __name__ == "__main__":
    # The parent as of now: opening the engine takes a while, and the supervisor may be gone behind it.
    sys.exit(started(functools.partial(run, parent=os.getppid())))
