"""Fuzzes every parser that strangers can reach: HTTP, WebSocket frames, each API's messages, and the ports of other protocols.

A seed makes one attempt, so that a failure can be repeated. Attempts start from a client's messages, which are then damaged.
"""

import asyncio
import base64
import contextlib
import json
import os
import random
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.servers import free_address, running_process

ATTEMPT_SECONDS = 5.0
AT_ONCE = 8
BATCH = 200  # attempts, after which the server is checked
SETTLING_SECONDS = 60.0
DEFECTS = ("Traceback", "met a defect")  # in the log
MOST_BYTES = 4096  # inserted at one place
ODD = (None, True, 5, -1, 1e300, "", "text", "\ud800", "a" * 5000, [], [5], {}, {"type": 5}, [["en"]], "null", 2**70)
AUDIO = struct.pack("<160h", *([8000, -8000] * 80))
WAV = b"RIFF" + struct.pack("<I", 36 + 320) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + b"data"
WAV += struct.pack("<I", 320) + AUDIO
BASE64 = base64.b64encode(AUDIO).decode()
OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
    "c=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n"
    f"a=fingerprint:sha-256 {':'.join(['AA'] * 32)}\r\n"
)
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    + WAV
    + b"\r\n--x\r\nContent-Disposition: form-data; "
    b'name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
)
REQUESTS: Sequence[tuple[str, str, bytes]] = (
    ("GET /healthz", "", b""),
    ("GET /v1/models", "", b""),
    ("GET /v1/channels/x/events", "", b""),
    ("POST /v1/audio/transcriptions", "multipart/form-data; boundary=x", FORM),
    ("POST /v1/listen?model=nova-3&keyterm=a", "audio/wav", WAV),
    ("POST /v1/tokens", "", b""),
    ("POST /v1/subtitles/srt", "application/json", b'{"segments":[{"text":"a","start_ms":0,"end_ms":5,"words":[]}]}'),
    (
        "POST /v1/realtime/client_secrets",
        "application/json",
        b'{"session":{"type":"transcription"},"expires_after":{"seconds":60}}',
    ),
    ("POST /v1/realtime/calls", "application/sdp", OFFER.encode()),
    ("POST /webrtc", "application/json", json.dumps({"sdp": OFFER, "type": "offer"}).encode()),
    ("POST /whip/x", "application/sdp", OFFER.encode()),
)
TURNS = {"type": "server_vad", "silence_duration_ms": 500, "prefix_padding_ms": 300}
SESSION = {
    "type": "transcription",
    "audio": {"input": {"format": {"type": "audio/pcm", "rate": 24_000}, "turn_detection": TURNS}},
}
CONVERSATIONS: dict[str, Sequence[Any]] = {
    "/ws": (
        {"op": "init", "sid": "a", "sr": 16_000, "silence_ms": 500, "turn_threshold": 0.7, "keyterms": ["a"], "channels": 1},
        AUDIO,
        {"op": "keyterms", "keyterms": ["b"]},
        {"op": "flush"},
        {"op": "close"},
    ),
    "/v1/realtime?intent=transcription": (
        {"type": "session.update", "session": SESSION},
        {"type": "input_audio_buffer.append", "audio": BASE64},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ),
    "/v1/listen?encoding=linear16&sample_rate=16000": (
        AUDIO,
        {"type": "KeepAlive"},
        {"type": "Finalize"},
        {"type": "CloseStream"},
    ),
    "/v2/listen?encoding=linear16&sample_rate=16000": (
        AUDIO,
        {"type": "Configure", "thresholds": {"eot_threshold": 0.8}, "keyterms": ["a"], "language_hints": ["en"]},
        {"type": "ForceEndTurn"},
        {"type": "CloseStream"},
    ),
    "/v1/telephone/jambonz": (
        {"type": "start", "language": "en-US", "encoding": "LINEAR16", "sampleRateHz": 8000, "options": {"hints": ["a"]}},
        AUDIO,
        {"type": "stop"},
    ),
    "/v1/telephone/vapi": (
        {"type": "start", "encoding": "linear16", "container": "raw", "sampleRate": 16_000, "channels": 2},
        AUDIO,
    ),
    "/v1/telephone/twilio": (
        {"event": "start", "streamSid": "a", "start": {"streamSid": "a", "callSid": "b", "tracks": ["inbound"]}},
        {"event": "media", "streamSid": "a", "media": {"track": "inbound", "timestamp": "20", "payload": BASE64}},
        {"event": "stop", "streamSid": "a"},
    ),
    "/": ({"config": {"sample_rate": 16_000, "phrase_list": ["a"]}}, AUDIO, {"eof": 1}),
}
WYOMING = (
    b'{"type":"describe"}\n{"type":"transcribe","data":{"language":"en"}}\n{"type":"audio-start","data":{"rate":16000,"width":2,'
    b'"channels":1}}\n{"type":"audio-chunk","data":{"rate":16000,"width":2,"channels":1},"payload_length":320}\n'
    + AUDIO
    + b'{"type":"audio-stop"}\n'
)
AUDIOSOCKET = b"\x01\x00\x10" + bytes(16) + b"\x10\x01\x40" + AUDIO + b"\x03\x00\x01" + b"5" + b"\x00\x00\x00"


@dataclass(frozen=True)
class Target:
    """A server of this machine."""

    address: str
    ports: tuple[tuple[int, bytes], ...] = ()
    """Ports of other protocols, with what a client of each sends."""


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Return bytes with a few places changed, left out, doubled or put in, or cut off."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(changed) + 1)
        match dice.randrange(5):
            case 0 if place < len(changed):
                changed[place] = dice.randrange(256)
            case 1:
                del changed[place : place + dice.randint(1, 40)]
            case 2:
                changed[place:place] = changed[place : place + dice.randint(1, 400)]
            case 3:
                changed[place:place] = dice.randbytes(dice.randint(1, MOST_BYTES))
            case _:
                del changed[max(place, 1) :]
    return bytes(changed)


def with_odd_field(message: Any, dice: random.Random) -> Any:
    """Return a message with one of its values replaced, at any depth."""
    if isinstance(message, dict) and message and dice.random() < 0.9:
        name = dice.choice(list(message))
        return message | {name: with_odd_field(message[name], dice)}
    return dice.choice(ODD)


def attempt_of(target: Target, seed: int) -> Callable[[], Awaitable[None]]:
    """Return the attempt that a seed makes."""
    dice = random.Random(seed)
    match dice.randrange(4 if target.ports else 3):
        case 0:
            return lambda: send_bytes(target.address, http_request(target.address, dice))
        case 1:
            return lambda: send_frames(target.address, dice)
        case 2:
            return lambda: send_messages(target.address, dice)
        case _:
            port, content = dice.choice(target.ports)
            return lambda: send_bytes(f"127.0.0.1:{port}", damaged(content, dice))


def http_request(address: str, dice: random.Random) -> bytes:
    """Return a request whose head or body is damaged."""
    line, kind, body = dice.choice(REQUESTS)
    if dice.random() < 0.5:
        body = damaged(body, dice)
    length = dice.choice((len(body), len(body) + 5, max(0, len(body) - 5), -1, "x", 10**20)) if dice.random() < 0.2 else len(body)
    head = f"{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return (damaged(head.encode(), dice) if dice.random() < 0.5 else head.encode()) + body


async def send_bytes(address: str, content: bytes) -> None:
    """Send bytes and read until the server closes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(content)
        writer.write_eof()
        await reader.read()
    finally:
        writer.transport.abort()


async def send_frames(address: str, dice: random.Random) -> None:
    """Open a WebSocket and send damaged frames."""
    path = dice.choice(list(CONVERSATIONS))
    key = base64.b64encode(dice.randbytes(16)).decode()
    head = (
        f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    frames = b"".join(frame_of(message, dice) for message in CONVERSATIONS[path])
    await send_bytes(address, head.encode() + damaged(frames, dice))


def frame_of(message: Any, dice: random.Random) -> bytes:
    """Return a masked frame of a client (RFC 6455, 5.2)."""
    content = message if isinstance(message, bytes) else json.dumps(message).encode()
    mask = dice.randbytes(4)
    length = bytes([0x80 | len(content)]) if len(content) < 126 else b"\xfe" + struct.pack(">H", len(content))
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(content))
    return bytes([0x82 if isinstance(message, bytes) else 0x81]) + length + mask + masked


async def send_messages(address: str, dice: random.Random) -> None:
    """Hold a conversation of one of the APIs, some of whose messages have odd values."""
    path = dice.choice(list(CONVERSATIONS))
    with contextlib.suppress(WebSocketException):
        async with connect(f"ws://{address}{path}", proxy=None, close_timeout=0.5) as socket:
            for message in CONVERSATIONS[path]:
                if isinstance(message, bytes):
                    await socket.send(damaged(message, dice))
                elif dice.random() < 0.6:
                    odd = with_odd_field(message, dice)
                    await socket.send(json.dumps(odd).encode("utf-8", "replace").decode())
                else:
                    await socket.send(json.dumps(message))
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(socket.recv(), 0.2)


async def attack(target: Target, seeds: Sequence[int]) -> None:
    """Make the attempts of these seeds, some in parallel."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def make(seed: int) -> None:
        async with gate:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(attempt_of(target, seed)(), ATTEMPT_SECONDS)

    await asyncio.gather(*map(make, seeds))


def new_seed() -> int:
    """Return a random seed, so that this run's seeds are new."""
    return int.from_bytes(os.urandom(6), "big")


@dataclass(frozen=True)
class FuzzOutcome:
    """The outcome of many attempts at one server."""

    attempts: int
    slowest_health_ms: float
    defects: tuple[int, ...]
    """First seeds of the batches after which the log had a defect."""
    sessions_left: int

    @property
    def is_clean(self) -> bool:
        return not self.defects and not self.sessions_left

    @property
    def told(self) -> str:
        found = f"seeds from {', '.join(map(str, self.defects))} met a defect" if self.defects else "no defect"
        after = f"health within {self.slowest_health_ms:.0f} ms, {self.sessions_left} sessions left"
        return f"{self.attempts:,} attempts: {found}; {after}"


def run(engines: Path, target: str, precision: str, minutes: float, on_progress: Callable[[str], None]) -> FuzzOutcome:
    """Attack a server of this checkout with new seeds, batch by batch. on_progress: called after each batch."""
    first = new_seed()
    wyoming, audiosocket = (int(free_address().rpartition(":")[2]) for _ in range(2))
    variables = {
        "ASR_ENGINE_DIR": str(engines.resolve()),
        "ASR_TARGET": target,
        "MOONSHINE_PRECISION": precision,
        "ASR_VOSK": "1",
        "ASR_WYOMING_PORT": str(wyoming),
        "ASR_AUDIOSOCKET_PORT": str(audiosocket),
    }
    address, attempts, slowest_ms, defects = free_address(), 0, 0.0, list[int]()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with running_process(["-m", "server"], address, variables, log):
            ends_at, seen = time.monotonic() + 60 * minutes, 0
            while time.monotonic() < ends_at:
                asyncio.run(
                    attack(
                        Target(address, ((wyoming, WYOMING), (audiosocket, AUDIOSOCKET))),
                        range(first + attempts, first + attempts + BATCH),
                    )
                )
                slowest_ms = max(slowest_ms, health_ms(address))
                text = log.read_text()
                if any(word in text[seen:] for word in DEFECTS):
                    defects.append(first + attempts)
                seen, attempts = len(text), attempts + BATCH
                on_progress(f"{attempts:,} attempts, {len(defects)} batches with a defect")
            left = sessions_left(address)
    return FuzzOutcome(attempts, round(slowest_ms), tuple(defects), left)


def health_ms(address: str) -> float:
    began = time.monotonic()
    httpx.get(f"http://{address}/healthz", trust_env=False, timeout=60).raise_for_status()
    return 1000 * (time.monotonic() - began)


def sessions_left(address: str) -> int:
    """Return the number of sessions, after a while in which the sessions of clients that have left may end."""
    ends_at, left = time.monotonic() + SETTLING_SECONDS, 1
    while left and time.monotonic() < ends_at:
        left = int(httpx.get(f"http://{address}/readyz", trust_env=False, timeout=60).json()["sessions"])
        time.sleep(0.2)
    return left
