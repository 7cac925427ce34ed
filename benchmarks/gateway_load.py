"""Many sessions against a null server, from a process of their own: python -m benchmarks.gateway_load HOST:PORT COUNT SECONDS MS

Prints `connected` when all sessions are open, waits for a line on its input, sends, and prints `sent` with how far it fell
behind real time.
"""

import asyncio
import os
import sys
import time

from benchmarks.accuracy import evaluation_clips
from benchmarks.null_server import STAMP_BYTES
from moonshine_client import audio_file
from moonshine_client.client import StreamingClient
from runtime.audio import SAMPLE_RATE

CONNECT_AT_ONCE = 8
ARRIVAL_SECONDS = 1.0  # they begin to speak spread over so long: nobody's updates fall together for ever
LAST_CORE = 1


async def send_stamped(client: StreamingClient, audio: bytes, frame_bytes: int, offset_seconds: float, seconds: float) -> float:
    """Real-time frames that begin with the time of their sending; returns how far behind it came at worst."""
    await asyncio.sleep(offset_seconds)
    frame_seconds, began, behind, position = frame_bytes / 2 / SAMPLE_RATE, time.monotonic(), 0.0, 0
    for number in range(int(seconds / frame_seconds)):
        wait = began + number * frame_seconds - time.monotonic()
        behind = max(behind, -wait)
        await asyncio.sleep(max(0.0, wait))
        frame = audio[position + STAMP_BYTES : position + frame_bytes]
        await client.send(time.monotonic_ns().to_bytes(STAMP_BYTES, "little") + frame)
        position = (position + frame_bytes) % (len(audio) - frame_bytes)
        position -= position % 2
    return behind


async def load(address: str, count: int, seconds: float, frame_ms: float) -> None:
    audio = audio_file.load(evaluation_clips()[0].path).tobytes()
    places = asyncio.Semaphore(CONNECT_AT_ONCE)

    async def connect() -> StreamingClient:
        async with places:
            return await StreamingClient(address).__aenter__()

    clients = await asyncio.gather(*(connect() for _ in range(count)))
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    frame_bytes = 2 * round(SAMPLE_RATE * frame_ms / 1000)
    behind = await asyncio.gather(*(
        send_stamped(client, audio, frame_bytes, ARRIVAL_SECONDS * number / count, seconds)
        for number, client in enumerate(clients)
    ))  # fmt: skip
    print(f"sent {max(behind, default=0.0):.3f}", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(client.__aexit__(None, None, None) for client in clients))


def main() -> None:
    address, count, seconds, frame_ms = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    if (os.cpu_count() or 1) > LAST_CORE:
        os.sched_setaffinity(0, {LAST_CORE})
    import uvloop

    uvloop.run(load(address, count, seconds, frame_ms))


if __name__ == "__main__":
    main()
