"""Streams over networks that lose, delay and reorder packets, fall silent, or give the client another address."""

import asyncio

import pytest

from benchmarks.harness.lossy_network import Network, lossy
from moonshine_client import StreamingClient
from tests.moonshine_client import counting
from tests.moonshine_client.test_resuming import FRAME_BYTES, running

pytestmark = pytest.mark.slow

NETWORKS = (
    Network("5% loss", loss=0.05),
    Network("reordering", delay_ms=20, jitter_ms=60),
    Network("a blackout of 6 s", trouble_after_seconds=1.0, blackout_seconds=6.0),
    Network("no packet for the first offer", trouble_after_seconds=0.0, blackout_seconds=5.5),
    Network("another address", trouble_after_seconds=1.0, moves=True),
)
COUNT = 12  # words
PACE_SECONDS = 0.02  # for each tenth of a second of sound, so that the trouble meets a stream that speaks


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_no_word_is_lost_or_told_twice(network):
    sound = counting.sound(COUNT)

    async def run() -> None:
        async with (
            running() as server,
            lossy(server.address, network) as address,
            StreamingClient(address, transport="webrtc") as client,
        ):
            for start in range(0, len(sound), FRAME_BYTES):
                await client.send(sound[start : start + FRAME_BYTES])
                await asyncio.sleep(PACE_SECONDS)
            final = await client.close()
        assert final["op"] == "final" and final["text"] == counting.text(COUNT) and final["audio_ms"] == len(sound) // 32

    asyncio.run(run())
