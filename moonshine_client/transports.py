"""Connections to the server: a data channel, or a WebSocket if the network blocks UDP. Both carry the same messages."""

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import Callable
from typing import Any, Protocol

import httpx
from aiortc import InvalidStateError, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from moonshine_client.errors import StreamError
from moonshine_client.transcripts import Message

HIGH_MARK_BYTES = 256 * 1024  # of audio that is not sent yet: the sender waits
KEY_VARIABLE = "ASR_API_KEY"
HTTP_SECONDS = 15.0
Raw = str | bytes


class Transport(Protocol):
    """One connection. After open() it reports every message, and its end."""

    @property
    def unsent_bytes(self) -> int: ...

    async def open(self) -> None:
        """Connect. Raises StreamError if the server refuses, OSError if it cannot be reached."""

    def send(self, message: Raw) -> bool:
        """Send a message; False if the connection is closing and nothing more is sent."""

    async def until_drained(self) -> None:
        """Wait until at most half of HIGH_MARK_BYTES is unsent, or the connection is lost."""

    async def close(self) -> None: ...


class Backlog:
    """Unsent bytes of a transport, for a sender that waits for them. The wait also ends when the transport is lost or closed."""

    def __init__(self) -> None:
        self._drained = asyncio.Event()
        self.is_lost = False

    def drain(self) -> None:
        self._drained.set()

    def lose(self) -> None:
        self.is_lost = True
        self._drained.set()

    async def until_drained(self) -> None:
        self._drained.clear()
        if not self.is_lost:
            await self._drained.wait()


class DataChannel:
    """A data channel of WebRTC: a lost packet delays the following data for one round trip only."""

    def __init__(self, url: str, headers: dict[str, str], on_message: Callable[[str], None], on_lost: Callable[[], None]):
        """url: the server's, with the path for offers."""
        self._url, self._headers, self._on_lost = url, headers, on_lost
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel = self._connection.createDataChannel("audio")
        self._channel.bufferedAmountLowThreshold = HIGH_MARK_BYTES // 2
        self._is_open = asyncio.Event()
        self._backlog = Backlog()
        self._channel.on("open", self._is_open.set)
        self._channel.on("message", on_message)
        self._channel.on("close", self._lose)
        self._channel.on("bufferedamountlow", self._backlog.drain)
        self._connection.on("connectionstatechange", self._on_state)

    async def open(self) -> None:
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer = self._connection.localDescription
        async with httpx.AsyncClient(timeout=HTTP_SECONDS, trust_env=False, verify=trusted()) as http:
            try:
                response = await http.post(self._url, json={"sdp": offer.sdp, "type": offer.type}, headers=self._headers)
            except httpx.TransportError as exc:
                raise ConnectionError(f"no server at {self._url}: {reason_of(exc)}") from exc
        answer = parse_response(response)
        await self._connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        await self._is_open.wait()

    @property
    def unsent_bytes(self) -> int:
        return int(self._channel.bufferedAmount)

    def send(self, message: Raw) -> bool:
        try:
            self._channel.send(message)
        except InvalidStateError:
            return False
        return True

    async def until_drained(self) -> None:
        await self._backlog.until_drained()

    async def close(self) -> None:
        await self._connection.close()

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._lose()

    def _lose(self) -> None:
        self._backlog.lose()
        self._on_lost()


class Socket:
    """A WebSocket, which works in every network where web pages do."""

    def __init__(self, url: str, headers: dict[str, str], on_message: Callable[[str], None], on_lost: Callable[[], None]):
        """url: the server's, with the path of the WebSocket."""
        self._url = url.replace("http", "ws", 1)
        self._headers, self._on_message, self._on_lost = headers, on_message, on_lost
        self._unsent: asyncio.Queue[Raw] = asyncio.Queue()
        self._backlog = Backlog()
        self._tasks: list[asyncio.Task[None]] = []
        self.unsent_bytes = 0

    async def open(self) -> None:
        context = trusted() if self._url.startswith("wss") else None
        try:
            self._socket = await connect(
                self._url, additional_headers=self._headers, ssl=context, proxy=None, compression=None, max_size=None
            )
        except InvalidStatus as exc:
            raise refusal_of(exc.response.status_code, exc.response.body or b"", dict(exc.response.headers.raw_items())) from exc
        except InvalidHandshake as exc:
            raise ConnectionError(f"no WebSocket at {self._url}: {reason_of(exc)}") from exc
        except OSError as exc:
            raise ConnectionError(f"no server at {self._url}: {reason_of(exc)}") from exc
        self._tasks = [asyncio.create_task(self._read(self._socket)), asyncio.create_task(self._write(self._socket))]

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                if isinstance(message, str):
                    self._on_message(message)
        self._lose()

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await self._unsent.get()
                await socket.send(message)
                self.unsent_bytes -= len(message)
                if self.unsent_bytes <= HIGH_MARK_BYTES // 2:
                    self._backlog.drain()

    def send(self, message: Raw) -> bool:
        if self._backlog.is_lost:
            return False
        self.unsent_bytes += len(message)
        self._unsent.put_nowait(message)
        return True

    async def until_drained(self) -> None:
        await self._backlog.until_drained()

    async def close(self) -> None:
        self._backlog.lose()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await self._socket.close()

    def _lose(self) -> None:
        self._backlog.lose()
        self._on_lost()


def authorization(key: str | None = None) -> dict[str, str]:
    """Return the header with an API key. key: without one, that of the environment."""
    key = key or os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def trusted() -> ssl.SSLContext:
    """Return a context with the usual authorities, and those of SSL_CERT_FILE, for a server that signs its certificate itself."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def reason_of(error: Exception) -> str:
    """Return the text of an error, or its type: some errors of the libraries have no text."""
    return str(error) or type(error).__name__


def parse_response(response: httpx.Response) -> Message:
    if response.status_code != 200:
        raise refusal_of(response.status_code, response.content, dict(response.headers))
    return parse_object(response.status_code, response.content)


def parse_object(status: int, content: bytes) -> Message:
    try:
        body: Any = json.loads(content)
    except ValueError as exc:
        raise StreamError("bad_answer", f"HTTP {status} without JSON") from exc
    if not isinstance(body, dict):
        raise StreamError("bad_answer", f"HTTP {status} with JSON that is no object")
    return body


def refusal_of(status: int, content: bytes, headers: dict[str, str]) -> StreamError:
    retry_after = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    body = parse_object(status, content)
    reason, message = body.get("reason", "refused"), body.get("message", f"HTTP {status}")
    return StreamError(reason, message, body, float(retry_after) if retry_after.isdecimal() else None)
