"""A gateway: one of several processes that serve the clients and use engine processes. supervisor.py starts them."""

import asyncio
import logging
import os
import sys

from starlette.middleware import Middleware

from runtime.tokenizer import Tokenizer
from server import serving
from server.processes.forwarding import Forwarding
from server.processes.messages import SOCKET_VARIABLE as ENGINE_VARIABLE
from server.processes.place import SOCKET_VARIABLE, GatewayPlace
from server.processes.remote_engine import RemoteEngine
from server.serving import SharedPort
from server.settings import Settings
from server.startup import choice_of, listen_everywhere, started
from server.telemetry.metrics import Metrics

logger = logging.getLogger("server.gateway")

ORPHAN_CHECK_SECONDS = 1.0


def run(settings: Settings) -> int:
    tokenizer = Tokenizer.load(choice_of(settings).directory)
    listeners = listen_everywhere(settings.listen, shared=True)
    remote_engine, place = RemoteEngine(os.environ[ENGINE_VARIABLE].split()), GatewayPlace.of(os.environ[SOCKET_VARIABLE])
    forwarding = Middleware(Forwarding, place=place, listen=settings.listen)
    shared_port = SharedPort(place.number, place.directory, forwarding, place.listen, until_orphaned)
    return serving.serve(settings, remote_engine, tokenizer, Metrics(), listeners, shared_port)


async def until_orphaned() -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the system offers nothing to wait on
        await asyncio.sleep(ORPHAN_CHECK_SECONDS)
    logger.error("the supervisor is gone")


if __name__ == "__main__":
    sys.exit(started(run))
