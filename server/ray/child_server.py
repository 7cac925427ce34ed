"""Runs a complete server as child processes, and proxies HTTP and WebSockets to it."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.http.handed_on import ADDRESS_HEADER, SECRET_HEADER, SECRET_VARIABLE, new_secret
from server.parent_process import end_with
from server.processes.forwarding import handed_back
from server.sessions.admission import Counts
from server.settings import API_PORT_VARIABLES, Settings, variable_names

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 0.5  # time between two checks of the child
SILENT_SECONDS = 10.0  # longest time without an answer about the child's health
KILL_SECONDS = 15.0  # beyond the child's own limits, for it to end
CONNECT_SECONDS = 10.0
KEPT_CONNECTIONS = 50
NOT_HANDED_ON = {
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"upgrade",
    ADDRESS_HEADER,
    SECRET_HEADER,
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"sec-websocket-extensions",
    b"sec-websocket-protocol",
}
"""Headers that belong to one connection. The body's length comes with the body."""
ALONE = {
    "ASR_TLS_CERT": "",
    "ASR_TLS_KEY": "",
    "ASR_TRUSTED_PROXIES": "",
    "ASR_ADMIN_PORT": "",
    **dict.fromkeys(API_PORT_VARIABLES, ""),
}
"""Settings of the child: only this process uses it, and several on one machine could not have the same ports."""
GOING_AWAY = 1001


class ChildServer:
    """The process `python -m server`, from the beginning of the lifespan to its end."""

    def __init__(self, settings: Settings, variables: Mapping[str, str]):
        """variables: the child's settings; it inherits no other settings."""
        self._listen = settings.listen
        self._port = free_port()
        inherited = {name: value for name, value in os.environ.items() if name not in variable_names()}
        self._secret = new_secret()
        own = {"ASR_HOST": LOOPBACK, "ASR_PORT": str(self._port), SECRET_VARIABLE: self._secret}
        self._environment = {**inherited, **variables, **ALONE, **own}
        self._http = httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{self._port}",
            trust_env=False,
            timeout=httpx.Timeout(CONNECT_SECONDS, read=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS),
        )
        self._counts = Counts(0, settings.access.session_limit, False)
        self._answered_at = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def app(self) -> "ChildServer":
        return self

    def counts(self) -> Counts:
        return self._counts

    def check(self) -> None:
        """Raises RuntimeError if the child has ended or does not answer."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("the server has ended; its log has the cause")
        if time.monotonic() - self._answered_at > SILENT_SECONDS:
            raise RuntimeError("the server does not answer")

    # Start and end

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            watching = await self._start()
        except RuntimeError as exc:
            self._kill()
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain()
        watching.cancel()
        await self._http.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> asyncio.Task[None]:
        """Start the child; returns when it accepts sessions. Raises RuntimeError."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
            [sys.executable, "-m", "server"], env=self._environment, preexec_fn=functools.partial(end_with, os.getpid())
        )
        self._answered_at = float("inf")  # a start has no time limit
        while not await self._look():
            self.check()
            await asyncio.sleep(LOOK_SECONDS)
        return asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> bool:
        """Check the child; True if it accepts sessions."""
        try:
            answer = await self._http.get("/acceptz", timeout=CONNECT_SECONDS)
            told = answer.json()
            self._counts = Counts(told["sessions"], told["max_sessions"], told["draining"])
        except (httpx.TransportError, ValueError, KeyError):
            return False
        self._answered_at = time.monotonic()
        return answer.status_code == 200

    async def drain(self) -> None:
        """End the child, which drains by itself. May be called twice."""
        self._stopping = self._stopping or asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        assert self._process is not None, "it was started"
        self._process.send_signal(signal.SIGTERM)
        limit = self._listen.drain_seconds + self._listen.shutdown_timeout_seconds + KILL_SECONDS
        try:
            await asyncio.to_thread(self._process.wait, limit)
        except subprocess.TimeoutExpired:
            logger.error("the server did not end within %g s and is killed", limit)
            self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    # Requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._socket(WebSocket(scope, receive, send))
        else:
            await self._request(Request(scope, receive), send)

    async def _request(self, request: Request, send: Send) -> None:
        url = self._http.base_url.copy_with(raw_path=target_of(request.scope))
        if url.raw_path != target_of(request.scope):  # the path was resolved
            await Response("a path must not have . or .. in it", 404)(request.scope, request.receive, send)
            return
        asked = httpx.Request(request.method, url, headers=headers_of(request.scope, self._secret), content=request.stream())
        if "content-length" in request.headers:  # httpx would send chunks
            asked.headers["content-length"] = request.headers["content-length"]
            asked.headers.pop("transfer-encoding", None)
        try:
            answer = await self._http.send(asked, stream=True)
        except httpx.TransportError:
            await Response("the server has ended", 503)(request.scope, request.receive, send)
            return
        await handed_back(answer)(request.scope, request.receive, send)

    async def _socket(self, client: WebSocket) -> None:
        name = client.headers.get("host", LOOPBACK)  # the server compares it with the origin of a web page
        headers = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in headers_of(client.scope, self._secret)
            if key != b"host"
        ]
        try:
            server = await connect(
                f"ws://{name}{target_of(client.scope).decode('latin-1')}",
                host=LOOPBACK,
                port=self._port,
                additional_headers=headers,
                subprotocols=client.scope.get("subprotocols") or None,
                user_agent_header=None,
                compression=None,
                max_size=None,
                proxy=None,
                ping_interval=None,
            )
        except InvalidStatus as refused:
            await client.send_denial_response(
                Response(bytes(refused.response.body or b""), refused.response.status_code, media_type="application/json")
            )
            return
        except OSError:
            await client.close(GOING_AWAY)
            return
        await client.accept(server.subprotocol)
        await joined(client, server)


async def joined(client: WebSocket, server: ClientConnection) -> None:
    """Pass messages both ways until either end closes; the other is closed the same way."""
    upwards = asyncio.create_task(carry_up(client, server))
    try:
        async for message in server:
            if isinstance(message, str):
                await client.send_text(message)
            else:
                await client.send_bytes(message)
    except ConnectionClosed:
        pass
    finally:
        upwards.cancel()
        with contextlib.suppress(RuntimeError):  # the client has left by itself
            await client.close(server.close_code or GOING_AWAY, server.close_reason or "")
        await server.close()


async def carry_up(client: WebSocket, server: ClientConnection) -> None:
    while True:
        message: Message = await client.receive()
        if message["type"] == "websocket.disconnect":
            await server.close()
            return
        said = message.get("text")
        with contextlib.suppress(ConnectionClosed):
            await server.send(said if said is not None else message["bytes"])


def target_of(scope: Scope) -> bytes:
    """Return path and query, unchanged."""
    path = scope.get("raw_path") or scope["path"].encode()
    return bytes(path + b"?" + scope["query_string"] if scope["query_string"] else path)


def headers_of(scope: Scope, secret: str) -> list[tuple[bytes, bytes]]:
    """Return the headers to forward, with the client's address and the secret that proves it."""
    handed_on = [(name, value) for name, value in scope["headers"] if name not in NOT_HANDED_ON]
    client = scope.get("client")
    return handed_on + ([(ADDRESS_HEADER, client[0].encode()), (SECRET_HEADER, secret.encode())] if client else [])


def free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])
