"""A gateway's way to the engine processes: what it tells them, and what it believes of the other gateways."""

import asyncio
import time

import zmq

from runtime.scheduler.transcriber import Status
from server.processes import messages
from server.processes.messages import EnginePulse, GatewayPulse
from server.processes.remote_engine import RemoteEngine

LONGEST_WAIT_SECONDS = 10.0


class EngineStandIn:
    """The sockets of an engine process."""

    def __init__(self, address: str):
        context = zmq.Context.instance()
        self.inbox, self.pulse = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
        self.inbox.bind(address)
        self.pulse.bind(messages.pulse_address(address))

    def beat(self, sessions: int, streams: int) -> None:
        self.pulse.send(messages.encode(EnginePulse("epoch", "ready", 160_000, False, sessions, streams)))

    def gateway_pulses(self) -> list[GatewayPulse]:
        found = []
        while self.inbox.poll(0):
            _, data = self.inbox.recv_multipart()
            found += [message for message in messages.decode_to_engine(data) if isinstance(message, GatewayPulse)]
        return found

    def close(self) -> None:
        self.inbox.close(0)
        self.pulse.close(0)


async def until(condition) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_session_of_eight_streams_on_two_engines_counts_as_one_elsewhere(tmp_path):
    """An upload in eight parts used to fill eight places of the other gateways."""

    async def run() -> None:
        addresses = [f"ipc://{tmp_path}/engine-{number}" for number in (1, 2)]
        engines = [EngineStandIn(address) for address in addresses]
        remote, told = RemoteEngine(addresses), [list[GatewayPulse](), list[GatewayPulse]()]
        running = asyncio.create_task(remote.run())

        def is_told() -> bool:
            for engine, pulses in zip(engines, told, strict=True):
                engine.beat(sessions=3, streams=24)
                pulses += engine.gateway_pulses()
            is_known = all(pulses and pulses[-1].sessions == 1 for pulses in told)
            return is_known and remote.status() is Status.READY

        remote.count_sessions(1)
        await until(is_told)
        assert remote.sessions_elsewhere == 2, "three sessions, of them one is here"
        for number in range(8):
            remote.open_stream(f"s.{number}", lambda message: None)
        await until(is_told)
        assert remote.sessions_elsewhere == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for engine in engines:
            engine.close()

    asyncio.run(run())
