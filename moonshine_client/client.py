"""The asyncio client: one stream of audio to a server, its words back.

async with StreamingClient("localhost:8000") as client:
    await client.send(pcm)          # PCM16 mono at 16 kHz, as often as there is some
    async for interim in client:    # or from another task
        print(interim["text"])
    final = await client.close()
"""

import asyncio
import collections
import json
import os
import ssl
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from aiortc import InvalidStateError, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

SAMPLE_RATE = 16_000  # Hz, mono
FRAME_MS = 20
HIGH_MARK_BYTES = 256 * 1024  # of audio the channel has not sent yet: the sender waits
CONNECT_SECONDS = 15.0
KEY_VARIABLE = "ASR_API_KEY"

Message = dict[str, Any]


class StreamError(Exception):
    """The server refused the stream or ended it with an error, or the connection was lost."""

    def __init__(self, reason: str, message: str, details: Message | None = None):
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.details = details or {}
        """The whole error message."""

    @property
    def text(self) -> str:
        """What was stable by then, and may be kept."""
        return str(self.details.get("text", ""))


class StreamingClient:
    """One stream. Enter it to connect and send init; close() gives the final; leaving it always hangs up."""

    def __init__(
        self,
        server: str,
        path: str = "/webrtc",
        sid: str | None = None,
        words: bool = False,
        max_interims: int | None = 1,
        key: str | None = None,
    ):
        """server: HOST:PORT or a URL. words: ask for the times of words, in the final and its segments.

        max_interims: how many interims wait to be read; of more, the oldest are dropped, for a newer one says all that an older
        one does. None: all are kept. key: an API key of the server; without it, ASR_API_KEY of the environment.
        """
        self._url = (server if "://" in server else f"http://{server}").rstrip("/") + path
        self.sid = sid or str(uuid.uuid4())
        self._headers = authorization(key)
        self._init = {"op": "init", "sid": self.sid, "sr": SAMPLE_RATE, "tail": True} | ({"words": True} if words else {})
        self._text = ""  # all that was said, put together from messages that say what is new
        self._segments: list[Message] = []
        self._stable = 0
        self.ready: Message = {}
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel = self._connection.createDataChannel("audio")
        self._interims: collections.deque[Message] = collections.deque(maxlen=max_interims)
        self._has_news = asyncio.Event()
        self._outcome: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
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
        """Raises StreamError when the server refuses, OSError (TimeoutError is one) when it cannot be reached."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connect()
        except TimeoutError as exc:
            await self._connection.close()
            raise TimeoutError(f"no stream from {self._url} within {CONNECT_SECONDS:g} s") from exc
        except BaseException:
            await self._connection.close()
            raise
        return self

    async def _connect(self) -> None:
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer = self._connection.localDescription
        async with httpx.AsyncClient(timeout=CONNECT_SECONDS, trust_env=False, verify=trusted()) as http:
            try:
                response = await http.post(self._url, json={"sdp": offer.sdp, "type": offer.type}, headers=self._headers)
            except httpx.TransportError as exc:
                raise ConnectionError(f"no server at {self._url}: {reason_of(exc)}") from exc
        answer = parse_response(response)
        await self._connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        await self._is_open.wait()
        self._channel.send(json.dumps(self._init))
        await self._until_ready()

    async def _until_ready(self) -> None:
        ready: asyncio.Future[Any] = asyncio.ensure_future(self._is_ready.wait())
        await asyncio.wait([ready, self._outcome], return_when=asyncio.FIRST_COMPLETED)
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
                self._interims.append(self._whole(parsed))
                self._stable = parsed["stable"]
                self._has_news.set()
            case "final" | "error":
                self._settle(self._whole(parsed))

    def _whole(self, message: Message) -> Message:
        """The message with all of the text and all segments in it."""
        if "offset" not in message:
            return message
        self._text = self._text[: message["offset"]] + message["text"]
        self._segments += message["segments"]
        whole = message | {"text": self._text, "segments": list(self._segments)}
        if "words" in self._init and message["op"] == "final":
            whole["words"] = [word for segment in self._segments for word in segment["words"]]
        del whole["offset"]
        return whole

    def _on_close(self) -> None:
        text = self._text[: self._stable]
        message = "the connection was lost before the final"
        self._settle({"op": "error", "reason": "connection_lost", "message": message, "sid": self.sid, "text": text})

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._on_close()

    def _settle(self, message: Message) -> None:
        if not self._outcome.done():
            self._outcome.set_result(message)
        self._has_news.set()
        self._drained.set()

    async def send(self, pcm: bytes) -> Message | None:
        """Send audio; waits while the channel is behind.

        Returns the final where the server has ended the stream, as it does when it shuts down: the audio is not taken any more.
        Raises StreamError when the stream has failed.
        """
        while self._channel.bufferedAmount > HIGH_MARK_BYTES and not self._outcome.done():
            self._drained.clear()
            await self._drained.wait()
        if not self._outcome.done() and self._try_to_send(pcm):
            return None
        return await self.outcome()

    def _try_to_send(self, message: str | bytes) -> bool:
        """False where the channel is closing: the outcome is on its way, or is there."""
        try:
            self._channel.send(message)
        except InvalidStateError:
            return False
        return True

    def __aiter__(self) -> "StreamingClient":
        return self

    async def __anext__(self) -> Message:
        """The next interim; ends with the stream."""
        while not self._interims:
            if self._outcome.done():
                raise StopAsyncIteration
            self._has_news.clear()
            await self._has_news.wait()
        return self._interims.popleft()

    async def close(self) -> Message:
        """Say that the audio has ended and wait for the final. Raises StreamError."""
        if not self._outcome.done():
            self._try_to_send('{"op":"close"}')
        return await self.outcome()

    async def outcome(self) -> Message:
        """Wait for the final without asking for it. Raises StreamError."""
        message = await asyncio.shield(self._outcome)
        raise_for(message)
        return message


@dataclass
class Transcription:
    """What one file's stream gave."""

    final: Message
    interims: list[Message] = field(default_factory=list)
    audio_seconds: float = 0.0
    """Of audio that was sent."""
    seconds: float = 0.0
    """From the first frame to the final."""
    final_seconds: float = 0.0
    """From close to the final."""


async def transcribe(
    server: str,
    audio: np.ndarray,
    rtf: float = 1.0,
    path: str = "/webrtc",
    words: bool = False,
    on_interim: Callable[[Message], None] = lambda interim: None,
    on_sent: Callable[[float], None] = lambda seconds: None,
) -> Transcription:
    """Stream int16 audio at `rtf` times real time (0: as fast as the channel takes it) and collect what comes back.

    Raises StreamError, OSError (TimeoutError is one).
    """
    async with StreamingClient(server, path, words=words, max_interims=None) as client:
        interims: list[Message] = []

        async def collect() -> None:
            async for interim in client:
                interims.append(interim)
                on_interim(interim)

        collecting = asyncio.create_task(collect())
        began = time.monotonic()
        try:
            sent_seconds = await send_all(client, audio, rtf, on_sent)
            closed_at = time.monotonic()
            final = await client.close()
            ended_at = time.monotonic()
            await collecting
        finally:
            collecting.cancel()
        return Transcription(final, interims, sent_seconds, time.monotonic() - began, ended_at - closed_at)


async def send_all(client: StreamingClient, audio: np.ndarray, rtf: float, on_sent: Callable[[float], None]) -> float:
    """Send int16 audio frame by frame, until the server ends the stream; returns how many seconds it took."""
    began, sent_seconds = time.monotonic(), 0.0
    samples = SAMPLE_RATE * FRAME_MS // 1000
    for start in range(0, len(audio), samples):
        frame = audio[start : start + samples]
        if await client.send(frame.tobytes()) is not None:
            break
        sent_seconds = (start + len(frame)) / SAMPLE_RATE
        on_sent(sent_seconds)
        if rtf > 0:
            await asyncio.sleep(began + sent_seconds / rtf - time.monotonic())
    return sent_seconds


def authorization(key: str | None = None) -> dict[str, str]:
    key = key or os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def trusted() -> ssl.SSLContext:
    """The usual authorities, and those of SSL_CERT_FILE: a server at home signs its certificate itself."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def reason_of(error: Exception) -> str:
    """Never empty: some errors of the libraries below say nothing."""
    return str(error) or type(error).__name__


def parse_response(response: httpx.Response) -> Message:
    try:
        body = response.json()
    except ValueError as exc:
        raise StreamError("bad_answer", f"HTTP {response.status_code} without JSON") from exc
    if not isinstance(body, dict):
        raise StreamError("bad_answer", f"HTTP {response.status_code} with JSON that is no object")
    if response.status_code != 200:
        raise StreamError(body.get("reason", "refused"), body.get("message", f"HTTP {response.status_code}"), body)
    return body


def raise_for(message: Message) -> None:
    if message["op"] == "error":
        raise StreamError(message["reason"], message["message"], message)
