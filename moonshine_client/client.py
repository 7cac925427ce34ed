"""The asyncio client: one stream of audio to a server, its words back. Needs neither engine nor settings.

async with StreamingClient("localhost:8000") as client:
    await client.send(pcm)          # PCM16 mono at 16 kHz, as often as there is some
    async for interim in client:    # or from another task
        print(interim["text"])
    final = await client.close()
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from runtime.audio import SAMPLE_RATE
from server.dialects.native import words_of

FRAME_MS = 20
HIGH_MARK_BYTES = 256 * 1024  # of audio the channel has not sent yet: the sender waits
CONNECT_SECONDS = 15.0


class StreamError(Exception):
    """The server refused the stream or ended it with an error."""

    def __init__(self, reason: str, message: str, details: dict | None = None):
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.details = details or {}
        """The whole error message; what text may be kept is in it."""


class StreamingClient:
    """One stream. Enter it to connect and send init; close() gives the final; leaving it always hangs up."""

    def __init__(self, server: str, path: str = "/webrtc", sid: str | None = None, words: bool = False):
        """server: HOST:PORT or a URL. words: ask for the times of words, in the final and its segments."""
        self._url = (server if "://" in server else f"http://{server}").rstrip("/") + path
        self.sid = sid or str(uuid.uuid4())
        self._init = {"op": "init", "sid": self.sid, "sr": SAMPLE_RATE, "tail": True} | ({"words": True} if words else {})
        self._text, self._segments = "", []  # all that was said, put together from messages that say what is new
        self.ready: dict = {}
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel = self._connection.createDataChannel("audio")
        self._interims: asyncio.Queue[dict | None] = asyncio.Queue()
        self._outcome: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
        self._is_ready = asyncio.Event()
        self._is_open = asyncio.Event()
        self._drained = asyncio.Event()
        self._channel.bufferedAmountLowThreshold = HIGH_MARK_BYTES // 2
        self._channel.on("open", self._is_open.set)
        self._channel.on("message", self._on_message)
        self._channel.on("close", self._on_close)
        self._channel.on("bufferedamountlow", self._drained.set)
        self._connection.on("connectionstatechange", self._on_state)

    async def __aenter__(self) -> "StreamingClient":
        """Raises StreamError when the server refuses, OSError or TimeoutError when it cannot be reached."""
        try:
            await asyncio.wait_for(self._connect(), CONNECT_SECONDS)
        except BaseException:
            await self._connection.close()
            raise
        return self

    async def _connect(self) -> None:
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer = self._connection.localDescription
        async with httpx.AsyncClient(timeout=CONNECT_SECONDS, trust_env=False) as http:
            try:
                response = await http.post(self._url, json={"sdp": offer.sdp, "type": offer.type})
            except httpx.TransportError as exc:
                raise ConnectionError(f"no server at {self._url}: {exc}") from exc
        answer = parse_response(response)
        await self._connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        await self._is_open.wait()
        self._channel.send(json.dumps(self._init))
        await self._until_ready()

    async def _until_ready(self) -> None:
        ready = asyncio.ensure_future(self._is_ready.wait())
        await asyncio.wait({ready, self._outcome}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._outcome.done():
            raise_for(self._outcome.result())

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connection.close()

    def _on_message(self, message: str) -> None:
        parsed = json.loads(message)
        match parsed["op"]:
            case "ready":
                self.ready = parsed
                self._is_ready.set()
            case "interim":
                self._interims.put_nowait(self._whole(parsed))
            case "final" | "error":
                self._settle(self._whole(parsed))

    def _whole(self, message: dict) -> dict:
        """The message with all of the text and all segments in it."""
        if "offset" not in message:
            return message
        self._text = self._text[: message["offset"]] + message["text"]
        self._segments += message["segments"]
        whole = message | {"text": self._text, "segments": list(self._segments)}
        if "words" in self._init and message["op"] == "final":
            whole["words"] = words_of(self._segments)
        del whole["offset"]
        return whole

    def _on_close(self) -> None:
        self._settle({"op": "error", "reason": "connection_lost", "message": "the channel closed before the final"})

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._on_close()

    def _settle(self, message: dict) -> None:
        if not self._outcome.done():
            self._outcome.set_result(message)
        self._interims.put_nowait(None)
        self._drained.set()

    async def send(self, pcm: bytes) -> None:
        """Send audio; waits while the channel is behind. Raises StreamError when the stream has ended."""
        while self._channel.bufferedAmount > HIGH_MARK_BYTES and not self._outcome.done():
            self._drained.clear()
            await self._drained.wait()
        if self._outcome.done():
            raise_for(self._outcome.result())
        self._channel.send(pcm)

    def __aiter__(self) -> "StreamingClient":
        return self

    async def __anext__(self) -> dict:
        """The next interim; ends with the stream."""
        interim = await self._interims.get()
        if interim is None:
            raise StopAsyncIteration
        return interim

    async def close(self) -> dict:
        """Say that the audio has ended and wait for the final. Raises StreamError."""
        if not self._outcome.done():
            self._channel.send('{"op":"close"}')
        message = await self._outcome
        raise_for(message)
        return message


@dataclass
class Transcription:
    """What one file's stream gave."""

    final: dict
    interims: list[dict] = field(default_factory=list)
    audio_seconds: float = 0.0
    seconds: float = 0.0
    """From the first frame to the final."""
    final_seconds: float = 0.0
    """From close to the final."""


async def transcribe(server: str, audio: np.ndarray, rtf: float = 1.0, path: str = "/webrtc", words: bool = False,
                     on_interim: Callable[[dict], None] = lambda interim: None,
                     on_sent: Callable[[float], None] = lambda seconds: None) -> Transcription:  # fmt: skip
    """Stream int16 audio at `rtf` times real time (0: as fast as the channel takes it) and collect what comes back.

    Raises StreamError, OSError, TimeoutError.
    """
    async with StreamingClient(server, path, words=words) as client:
        interims: list[dict] = []

        async def collect() -> None:
            async for interim in client:
                interims.append(interim)
                on_interim(interim)

        collecting = asyncio.create_task(collect())
        began = time.monotonic()
        samples = SAMPLE_RATE * FRAME_MS // 1000
        try:
            for start in range(0, len(audio), samples):
                frame = audio[start : start + samples]
                await client.send(frame.tobytes())
                sent_seconds = (start + len(frame)) / SAMPLE_RATE
                on_sent(sent_seconds)
                if rtf > 0:
                    await asyncio.sleep(began + sent_seconds / rtf - time.monotonic())
            closed_at = time.monotonic()
            final = await client.close()
            ended_at = time.monotonic()
            await collecting
        finally:
            collecting.cancel()
        return Transcription(final, interims, len(audio) / SAMPLE_RATE, time.monotonic() - began, ended_at - closed_at)


def parse_response(response: httpx.Response) -> dict:
    try:
        body = response.json()
    except ValueError as exc:
        raise StreamError("bad_answer", f"HTTP {response.status_code} without JSON") from exc
    if response.status_code != 200:
        raise StreamError(body.get("reason", "refused"), body.get("message", f"HTTP {response.status_code}"), body)
    return body


def raise_for(message: dict) -> None:
    if message["op"] == "error":
        raise StreamError(message["reason"], message["message"], message)
