"""The engine process: one engine loop that serves the gateway processes, and a pulse that reports its state to them.

The pulse has its own socket and thread: it must go out while the loop runs a long step or hangs.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable

import uvloop
import zmq

from runtime.engine.protocol import Engine
from runtime.scheduler.inbox import Inbox
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.transcriber import Status
from server.processes import messages
from server.processes.engine_server import EngineServer
from server.processes.messages import PULSE_SECONDS, SOCKET_VARIABLE, EnginePulse, pulse_address
from server.processes.sockets import Mailbox
from server.settings import Settings
from server.startup import open_for_serving, started
from server.telemetry.heartbeat import beating, exit_at_once
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import exporting

logger = logging.getLogger("server.engine")

STOPPED_STATUS = 4  # of an engine that was given up: the supervisor starts another

Open = Callable[[Settings, Metrics, Inbox], tuple[EngineLoop, Engine]]


async def serve(settings: Settings, address: str, parent: int, open_engine: Open) -> int:
    """Serve until SIGTERM or the end of the supervisor, the process `parent`; returns the exit status."""
    metrics, mailbox = Metrics(), Mailbox(address)
    server = EngineServer(mailbox)
    engine_loop, engine = open_engine(settings, metrics, server)
    server.serve(engine_loop)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    mailbox.open()
    gc.collect()
    gc.freeze()  # objects of the start-up are never garbage: full collections would scan them again and again
    engine_loop.start()
    logger.info("the engine process is there")

    def goes_on() -> bool:
        return not stopping.is_set() and os.getppid() == parent and engine_loop.status() is not Status.FAILED

    epoch = uuid.uuid4().hex
    with exporting(metrics.registry), contextlib.closing(open_pulse(address)) as pulse:
        async with beating(metrics.loop_lag.observe):
            while goes_on():
                status, most, streams = engine_loop.status().value, engine.limits.max_samples, engine_loop.encodes_streams
                pulse.send(messages.encode(EnginePulse(epoch, status, most, streams, server.sessions, server.streams)))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), PULSE_SECONDS)
    exit_status = STOPPED_STATUS if engine_loop.status() is Status.FAILED else 0
    await asyncio.to_thread(engine_loop.stop)
    if engine_loop.has_ended:
        mailbox.close()
        return exit_status
    logger.error("the engine hangs; the process ends without it")
    return STOPPED_STATUS


def open_pulse(address: str) -> zmq.Socket[bytes]:
    """Open the socket that every gateway listens to."""
    pulse: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    pulse.setsockopt(zmq.LINGER, 0)
    pulse.bind(pulse_address(address))
    return pulse


def open_configured(settings: Settings, metrics: Metrics, inbox: Inbox) -> tuple[EngineLoop, Engine]:
    engine_loop, engine, _ = open_for_serving(settings, metrics, inbox)
    return engine_loop, engine


def run(settings: Settings, parent: int, open_engine: Open = open_configured) -> int:
    status = uvloop.run(serve(settings, os.environ[SOCKET_VARIABLE], parent, open_engine))
    if status == STOPPED_STATUS:
        exit_at_once(status)
    return status


if __name__ == "__main__":
    # The parent is read now: opening the engine takes a while, and the supervisor may end meanwhile.
    sys.exit(started(functools.partial(run, parent=os.getppid())))
