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
import zmq
import zmq.asyncio

from runtime.audio import Clip
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


async def serve(settings: Settings, address: str, parent: int) -> int:
    """Until SIGTERM or the end of the supervisor, the process `parent`; returns the exit status."""
    metrics = Metrics()
    engine_loop, engine, _ = open_for_serving(settings, metrics)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    engine_loop.start()
    socket = open_socket(address)

    def send(identity: bytes, data: bytes) -> None:
        socket.send_multipart([identity, data])

    server = EngineServer(engine_loop, engine.limits.max_samples, send)
    logger.info("the engine process is there")

    def goes_on() -> bool:
        return not stopping.is_set() and os.getppid() == parent and engine_loop.status() is not Status.FAILED

    with exporting(metrics.registry):
        # Should receiving end on an error, so does all, and the supervisor starts anew.
        async with beating(metrics.loop_lag.observe), asyncio.TaskGroup() as tasks:
            receiving = tasks.create_task(receive(socket, server))
            while goes_on():
                server.beat()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), PULSE_SECONDS)
            receiving.cancel()
    status = STOPPED_STATUS if engine_loop.status() is Status.FAILED else 0
    await asyncio.to_thread(engine_loop.stop)
    socket.close()
    return status


def open_socket(address: str) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.bind(address)
    return socket


async def receive(socket: zmq.asyncio.Socket, server: EngineServer) -> None:
    while True:
        identity, data = await socket.recv_multipart()
        try:
            server.receive(identity, messages.decode_to_engine(data))
        except Exception:  # one message that cannot be used must not silence all streams
            logger.exception("a message of a gateway could not be taken")


def run(settings: Settings, parent: int) -> int:
    status = asyncio.run(serve(settings, os.environ[SOCKET_VARIABLE], parent))
    if status == STOPPED_STATUS:
        exit_at_once(status)
    return status


if __name__ == "__main__":
    # The parent as of now: opening the engine takes a while, and the supervisor may be gone behind it.
    sys.exit(started(functools.partial(run, parent=os.getppid())))
