"""Measures the processor time that a WebSocket message of 640 bytes costs fronts whose application does nothing with it.

PYTHON benchmarks/peers/websocket_fronts.py [--sockets 100] [--seconds 8] [--rounds 3]

PYTHON is that of an environment with picows, granian, and the packages of the server. Each front runs on the first core, as a
process of its own, the load on another. Prints a table of the medians.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT))

MESSAGE_BYTES, MESSAGES_A_SECOND = 640, 50
FRONTS = ("uvicorn, ASGI", "this server, ASGI", "this server, directly", "picows", "granian, ASGI")
CONNECT_AT_ONCE, SETTLE_SECONDS = 16, 1.0


async def application(scope, receive, send) -> None:
    """Read messages and ignore them."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    if "direct" in scope.get("extensions", {}) and os.environ.get("DIRECT"):
        scope["extensions"]["direct"].deliver_to(len)
    while (await receive())["type"] != "websocket.disconnect":
        pass


def serve_uvicorn(port: int, **options: object) -> None:
    import uvicorn

    uvicorn.run(
        application,
        port=port,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="error",
        ws_per_message_deflate=False,
        **options,
    )


def serve_picows(port: int) -> None:
    import picows
    import uvloop

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.disconnect()
            else:
                len(frame.get_payload_as_bytes())

    async def serve() -> None:
        await (await picows.ws_create_server(lambda request: Listener(), "127.0.0.1", port)).serve_forever()

    uvloop.run(serve())


def serve(front: str, port: int) -> None:
    os.sched_setaffinity(0, {0})
    if front == "picows":
        serve_picows(port)
    elif front == "granian, ASGI":
        from granian import Granian

        Granian(
            f"{__file__}:application", port=port, interface="asginl", loop="uvloop", websockets=True, log_enabled=False
        ).serve()
    elif front == "uvicorn, ASGI":
        serve_uvicorn(port, ws="websockets-sansio")
    else:
        from server.transports.websocket_frames import BoundedWebSocket

        serve_uvicorn(port, ws=BoundedWebSocket)


async def load(port: int, sockets: int, seconds: float, is_connected: asyncio.Event) -> None:
    """Send messages at the speed of speech over this many sockets; the library answers pings."""
    from websockets.asyncio.client import connect

    places, message = asyncio.Semaphore(CONNECT_AT_ONCE), bytes(MESSAGE_BYTES)

    async def opened():
        async with places:
            return await connect(f"ws://127.0.0.1:{port}/ws", proxy=None, compression=None)

    clients = await asyncio.gather(*(opened() for _ in range(sockets)))
    is_connected.set()
    began = time.monotonic()

    async def speak(client, number: int) -> None:
        for count in range(int(seconds * MESSAGES_A_SECOND)):
            await asyncio.sleep(max(0.0, began + (count + number / sockets) / MESSAGES_A_SECOND - time.monotonic()))
            await client.send(message)

    await asyncio.gather(*(speak(client, number) for number, client in enumerate(clients)))
    await asyncio.gather(*(client.close() for client in clients))


def tree(process_id: int) -> list[int]:
    """Return a process and all that it started."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [process_id, *(each for child in children for each in tree(int(child)))]


def cpu_seconds(process_id: int) -> float:
    ticks = 0
    for each in tree(process_id):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def microseconds(front: str, sockets: int, seconds: float) -> float:
    """Return the processor time of a message."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | ({"DIRECT": "1"} if front.endswith("directly") else {})
    process = subprocess.Popen([sys.executable, __file__, "--serve", front, str(port)], env=environment, cwd=PROJECT)
    try:
        for _ in range(100):
            time.sleep(0.1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        time.sleep(SETTLE_SECONDS)

        async def measure() -> float:
            is_connected = asyncio.Event()
            sending = asyncio.create_task(load(port, sockets, seconds, is_connected))
            await is_connected.wait()
            before = cpu_seconds(process.pid)
            await sending
            return cpu_seconds(process.pid) - before

        return asyncio.run(measure()) / (sockets * int(seconds * MESSAGES_A_SECOND)) * 1e6
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, metavar=("FRONT", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], int(arguments.serve[1]))
        return
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)))
    found: dict[str, list[float]] = {front: [] for front in FRONTS}
    for number in range(arguments.rounds):
        for front in FRONTS:
            print(f"round {number + 1} of {arguments.rounds}: {front}", file=sys.stderr)
            found[front].append(microseconds(front, arguments.sockets, arguments.seconds))
    print(f"{arguments.sockets} sockets, {MESSAGES_A_SECOND} messages of {MESSAGE_BYTES} bytes a second each")
    for front, times in found.items():
        print(f"{front:24} {statistics.median(times):6.1f} us a message")


if __name__ == "__main__":
    main()
