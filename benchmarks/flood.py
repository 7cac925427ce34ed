"""Measure live speech beside attackers: idle connections, half requests, slow readers, floods of messages.

python -m benchmarks.flood KIND ADDRESS SECONDS runs one attacker in its own process. It shares the cores with the server, so
attackers send in bursts with pauses that leave a core to the server.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.harness.accuracy import samples
from benchmarks.servers import PROJECT, free_address, running_process
from benchmarks.soak import look_at
from moonshine_client import audio_file
from moonshine_client.client import StreamingClient, send_all
from moonshine_client.resend_buffer import SAMPLE_RATE

CONNECTIONS, SLOW_READERS, SENDERS = 500, 50, 4
KEY, ATTACKERS_KEY = "sk-flood-0123456789", "sk-attacker-0123456789"
LIMITS = "sessions=4 per_minute=300"  # of the attackers' key, as an operator gives them to an unknown client
REFUSED_REQUESTS = 2000
TURN_SAMPLES = 5 * SAMPLE_RATE // 2
UDP_PORTS = range(50_000, 50_064)
PACE_SECONDS = 0.1  # between two bursts of an attacker that sends little, so that its own program leaves a core free

Attack = Callable[[str, float], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Flooded:
    """Figures of the real streams beside one kind of attacker."""

    attack: str
    update_p95_ms: float
    final_p95_ms: float
    failed: int
    """Streams that ended with an error."""
    health_ms: float
    """Time of the slowest answer to /healthz."""
    memory_mib: float = 0.0
    """Growth of the server's memory meanwhile."""

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Refusing:
    """The server's cost of a request without a key."""

    cpu_us: float
    memory_bytes: float

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


def run(
    engines: Path, target: str, precision: str, streams: int, seconds: float, progress: Callable[[str], None]
) -> Iterator[Flooded | Refusing]:
    address = free_address()
    variables = {
        "ASR_ENGINE_DIR": str(engines.resolve()),
        "MOONSHINE_PRECISION": precision,
        "ASR_TARGET": target,
        "ASR_LOG_LEVEL": "error",
        "ASR_UDP_PORTS": f"{UDP_PORTS.start}-{UDP_PORTS.stop - 1}",
        "ASR_API_KEYS": f"{KEY}, {ATTACKERS_KEY} name=attacker {LIMITS}",
    }
    with running_process(["-m", "server"], address, variables) as server:
        progress("requests without a key")
        yield refusing(address, server.pid)
        progress("warming up")
        asyncio.run(measure("", address, streams, seconds))
        for attack in ("none", *ATTACKS, "none again"):
            progress(attack)
            before = look_at([server.pid], 0.0).memory_mib
            with attacking(attack, address, seconds):
                found = asyncio.run(measure(attack, address, streams, seconds))
            yield dataclasses.replace(found, memory_mib=round(look_at([server.pid], 0.0).memory_mib - before, 1))


def refusing(address: str, pid: int) -> Refusing:
    with httpx.Client(base_url=f"http://{address}", trust_env=False) as http:
        for count in (100, REFUSED_REQUESTS):  # the first requests find cold caches
            cpu, memory = cpu_seconds(pid), look_at([pid], 0.0).memory_mib
            for _ in range(count):
                assert http.post("/webrtc", json={"sdp": "?", "type": "offer"}).status_code == 401
    cpu, memory = cpu_seconds(pid) - cpu, look_at([pid], 0.0).memory_mib - memory
    return Refusing(round(cpu * 1e6 / REFUSED_REQUESTS), round(memory * 2**20 / REFUSED_REQUESTS))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def attacking(attack: str, address: str, seconds: float) -> Iterator[None]:
    if attack not in ATTACKS:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.flood", attack, address, str(seconds)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # wait until the attack has begun
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def measure(attack: str, address: str, streams: int, seconds: float) -> Flooded:
    audio = audio_file.load(max(samples(), key=lambda each: each.path.stat().st_size).path)[: int(seconds * SAMPLE_RATE)]
    health_ms: list[float] = []
    looking = asyncio.create_task(look_at_health(address, health_ms))
    outcomes = await asyncio.gather(
        *(speak(address, audio, seconds / streams / 4 * number) for number in range(streams)), return_exceptions=True
    )
    looking.cancel()
    heard = [each for each in outcomes if not isinstance(each, BaseException)]
    updates_ms, finals_ms = ([latency for each in heard for latency in each[kind]] for kind in (0, 1))
    return Flooded(
        attack,
        *(round(float(np.percentile(each or [np.nan], 95)), 1) for each in (updates_ms, finals_ms)),
        len(outcomes) - len(heard),
        round(max(health_ms), 1),
    )


async def look_at_health(address: str, found_ms: list[float]) -> None:
    while True:
        began = time.monotonic()
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            assert (await http.get(f"http://{address}/healthz")).status_code == 200
        found_ms.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(1.0)


async def speak(address: str, audio: np.ndarray, wait_seconds: float) -> tuple[list[float], list[float]]:
    """Return the latencies of updates and finals that the server reports; the client requests a final every few seconds."""
    await asyncio.sleep(wait_seconds)
    updates_ms: list[float] = []
    async with StreamingClient(address, key=KEY, resume_seconds=0, max_interims=None) as client:

        async def listen() -> None:
            async for interim in client:
                updates_ms.append(interim["latency_ms"])

        listening = asyncio.create_task(listen())
        finals_ms = []
        for start in range(0, len(audio), TURN_SAMPLES):
            await send_all(client, audio[start : start + TURN_SAMPLES], 1.0, lambda seconds: None)
            is_last = start + TURN_SAMPLES >= len(audio)
            finals_ms.append((await (client.close() if is_last else client.flush()))["latency_ms"])
        await listening
        return updates_ms, finals_ms


# Attackers


async def hold_connections(address: str, seconds: float, begun: bytes = b"") -> None:
    """Hold connections that send only the beginning of a request. Closed ones are opened again."""
    host, _, port = address.rpartition(":")

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(begun)
                await reader.read()
            await asyncio.sleep(1.0)

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))


async def send_half_bodies(address: str, seconds: float) -> None:
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {ATTACKERS_KEY}\r\n"
    head += "Content-Length: 1000000\r\n"
    await hold_connections(address, seconds, (head + "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n").encode())


async def offer_and_stay_away(address: str, seconds: float) -> None:
    """Send offers with a key, none of which connects."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.createDataChannel("audio")
    await connection.setLocalDescription(await connection.createOffer())
    offer = {"sdp": connection.localDescription.sdp, "type": "offer"}
    await connection.close()
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {ATTACKERS_KEY}"}) as http:
        for _ in range(CONNECTIONS):
            with contextlib.suppress(httpx.HTTPError):
                await http.post(f"http://{address}/webrtc", json=offer)
            await asyncio.sleep(seconds / CONNECTIONS / 2)
    await asyncio.sleep(seconds)


async def read_slowly(address: str, seconds: float) -> None:
    """Open sockets with a session each, which request messages and never read one."""

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError, WebSocketException):
                async with socket_to(address, max_queue=1) as link:
                    await link.send('{"op":"init","pulse":true}')
                    while True:
                        await link.send(bytes(640))
                        await asyncio.sleep(0.5)
            await asyncio.sleep(5.0)

    await asyncio.gather(*(one() for _ in range(SLOW_READERS)))


async def send_messages(address: str, seconds: float, size: int, at_once: int) -> None:
    """Send messages in bursts, faster than the server lets one client send."""

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError, WebSocketException):
                async with socket_to(address) as link:
                    await link.send('{"op":"init"}')
                    while True:
                        for _ in range(at_once):
                            await link.send(bytes(size))
                        await asyncio.sleep(PACE_SECONDS)
            await asyncio.sleep(PACE_SECONDS)

    await asyncio.gather(*(one() for _ in range(SENDERS)))


async def leave_answers_unread(address: str, seconds: float) -> None:
    """Request large answers again and again, without a key, and read none."""
    host, _, port = address.rpartition(":")
    request = f"GET /openapi.json HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()

    async def one(number: int) -> None:
        await asyncio.sleep(PACE_SECONDS * number)
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port), limit=1)
                reader._transport.pause_reading()
                writer.write(request * 100)
                while not writer.is_closing():  # noqa: ASYNC110 (a reader that has stopped reading gets no event)
                    await asyncio.sleep(1.0)
            await asyncio.sleep(1.0)

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS // 5)))


async def send_large_heads(address: str, seconds: float) -> None:
    """Send request heads of a megabyte, without a key."""
    host, _, port = address.rpartition(":")
    head = f"GET / HTTP/1.1\r\nHost: {address}\r\n".encode() + b"a: b\r\n" * 170_000
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head)
            await writer.drain()
            writer.close()
        await asyncio.sleep(PACE_SECONDS)


async def send_empty_frames(address: str, seconds: float) -> None:
    """Send one message in ten thousand empty frames, ten times a second."""
    piece, first = b"\x00\x80" + bytes(4), b"\x02\x80" + bytes(4)
    while True:
        with contextlib.suppress(OSError, WebSocketException):
            async with socket_to(address) as link:
                link.transport.write(first)
                while not link.transport.is_closing():
                    link.transport.write(piece * 1_000)
                    await asyncio.sleep(PACE_SECONDS)
        await asyncio.sleep(PACE_SECONDS)


async def send_empty_datagrams(address: str, seconds: float) -> None:
    """Send empty datagrams to every port that a session may have. Earlier, each of them ended a session."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        hosts = ("127.0.0.1", address_of_this_machine())
        while True:
            for host, port in itertools.product(hosts, UDP_PORTS):
                with contextlib.suppress(OSError):
                    sender.sendto(b"", (host, port))
            await asyncio.sleep(PACE_SECONDS)


def address_of_this_machine() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


async def send_bombs(address: str, seconds: float) -> None:
    """Send 55 bytes of FLAC that would decode to gigabytes, within the key's limit of requests."""
    flac = flac_of_one_frame(rate=10)
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {ATTACKERS_KEY}"}, timeout=60) as http:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await http.post(f"http://{address}/v1/listen", content=flac, headers={"Content-Type": "audio/flac"})
            await asyncio.sleep(2 * PACE_SECONDS)


def flac_of_one_frame(rate: int) -> bytes:
    """Return FLAC of 65,535 samples of silence in one channel of 16 bits (RFC 9639, sections 8.2 and 9)."""
    samples = (65_535).to_bytes(2, "big")
    sizes = (rate << 44 | 15 << 36 | 65_535).to_bytes(8, "big")  # rate, one channel, 16 bits less 1, samples in all
    stream_info = b"\x80\0\0\x22" + samples * 2 + bytes(6) + sizes + bytes(16)
    header = b"\xff\xf8\x70\x08\0" + (65_534).to_bytes(2, "big")
    frame = header + bytes([checksum(header, 0x07, 8)]) + bytes(3)  # a constant subframe of 0
    return b"fLaC" + stream_info + frame + checksum(frame, 0x8005, 16).to_bytes(2, "big")


def checksum(data: bytes, polynomial: int, bits: int) -> int:
    """Return a cyclic redundancy check with the initial value 0."""
    value = 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
    return value


async def ask_for_large_answers(address: str, seconds: float) -> None:
    """Change a session's configuration again and again; the server returns all of it each time, and nobody reads it."""
    update = {"type": "session.update", "session": {"audio": {"input": {"transcription": {"prompt": "x" * 60_000}}}}}
    large, small = json.dumps(update), '{"type":"session.update","session":{}}'
    while True:
        with contextlib.suppress(OSError, WebSocketException):
            async with socket_to(address, "/v1/realtime", max_queue=1) as link:
                await link.send(large)
                while True:
                    await link.send(small)
                    await asyncio.sleep(PACE_SECONDS / 10)
        await asyncio.sleep(1.0)


async def change_keyterms(address: str, seconds: float) -> None:
    """Send the most and the longest terms allowed, in another order with each message."""
    terms = [f"{number:03} {'x' * 46}" for number in range(200)]
    while True:
        with contextlib.suppress(OSError, WebSocketException):
            async with socket_to(address) as link:
                await link.send('{"op":"init"}')
                while True:
                    random.shuffle(terms)
                    await link.send(json.dumps({"op": "keyterms", "keyterms": terms}))
                    await asyncio.sleep(PACE_SECONDS / 10)
        await asyncio.sleep(1.0)


def socket_to(address: str, path: str = "/ws", **options: object) -> connect:
    return connect(
        f"ws://{address}{path}", proxy=None, additional_headers={"Authorization": f"Bearer {ATTACKERS_KEY}"}, **options
    )


ATTACKS: Mapping[str, Attack] = {
    "500 silent connections": hold_connections,
    "500 half-sent bodies": send_half_bodies,
    "500 offers that never connect": offer_and_stay_away,
    "50 slow readers": read_slowly,
    "4 floods of tiny messages": lambda address, seconds: send_messages(address, seconds, 2, 75),
    "4 floods of large messages": lambda address, seconds: send_messages(address, seconds, 60_000, 4),
    "100 connections that read no answer": leave_answers_unread,
    "heads of a megabyte": send_large_heads,
    "messages of empty frames": send_empty_frames,
    "empty datagrams to every port": send_empty_datagrams,
    "FLAC of 55 bytes": send_bombs,
    "small messages with large answers": ask_for_large_answers,
    "keyterms that change all the time": change_keyterms,
}


async def attack(kind: str, address: str, seconds: float) -> None:
    attacking = asyncio.ensure_future(ATTACKS[kind](address, seconds))
    await asyncio.sleep(2.0)
    print("at it", flush=True)
    await attacking


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1], sys.argv[2], float(sys.argv[3])))
