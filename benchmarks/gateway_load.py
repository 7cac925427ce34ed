"""Many sessions against a null server: python -m benchmarks.gateway_load HOST:PORT WAY COUNT SECONDS MS

It runs as its own process. Prints `connected` when all sessions are open, waits for a line on its input, sends, and prints `sent`
with its largest delay behind real time.
"""

import asyncio
import os
import sys
import time

from websockets.asyncio.client import connect

from benchmarks.harness.accuracy import evaluation_clips
from benchmarks.harness.null_server import STAMP_BYTES
from moonshine_client import audio_file
from moonshine_client.client import StreamingClient
from runtime.audio import SAMPLE_RATE

CONNECT_AT_ONCE = 8
ARRIVAL_SECONDS = 1.0  # sessions begin to speak spread over this time, so that their updates do not all coincide
LAST_CORE = 1


class SocketClient:
    """A stream over a WebSocket, with only the parts that a load needs. The server's messages are read and ignored."""

    async def __aenter__(self) -> "SocketClient":
        self._socket = await connect(self._address, proxy=None, compression=None)
        await self._socket.send('{"op":"init","sid":"load"}')
        self._reading = asyncio.create_task(self._read())
        return self

    def __init__(self, address: str):
        self._address = f"ws://{address}/ws"

    async def _read(self) -> None:
        async for _ in self._socket:
            pass

    async def send(self, pcm: bytes) -> None:
        await self._socket.send(pcm)

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await self._socket.close()


Client = StreamingClient | SocketClient
WAYS = {"data channel": lambda address: StreamingClient(address, frame_ms=0), "websocket": SocketClient}


async def send_stamped(client: Client, audio: bytes, frame_bytes: int, offset_seconds: float, seconds: float) -> float:
    """Send frames in real time, each beginning with the time of its sending; returns the largest delay."""
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


async def load(address: str, way: str, count: int, seconds: float, frame_ms: float) -> None:
    audio = audio_file.load(evaluation_clips()[0].path).tobytes()
    places = asyncio.Semaphore(CONNECT_AT_ONCE)

    async def open_one() -> Client:
        async with places:
            return await WAYS[way](address).__aenter__()

    clients = await asyncio.gather(*(open_one() for _ in range(count)))
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    frame_bytes = 2 * round(SAMPLE_RATE * frame_ms / 1000)
    behind = await asyncio.gather(
        *(
            send_stamped(client, audio, frame_bytes, ARRIVAL_SECONDS * number / count, seconds)
            for number, client in enumerate(clients)
        )
    )
    print(f"sent {max(behind, default=0.0):.3f}", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(client.__aexit__(None, None, None) for client in clients))


def main() -> None:
    address, way = sys.argv[1:3]
    count, seconds, frame_ms = int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])
    if (os.cpu_count() or 1) > LAST_CORE:
        os.sched_setaffinity(0, {LAST_CORE})
    import uvloop

    uvloop.run(load(address, way, count, seconds, frame_ms))


if __name__ == "__main__":
    main()
