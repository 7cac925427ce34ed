"""Several gateways share one port: a request about a session is handed on to the gateway that has it.

A session's name begins with its gateway's number. Each gateway listens on a Unix socket, too, for what the others hand on.
"""

import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.settings import Listen

NAMED_PATH = re.compile(r"/(?:whip/session/|v1/realtime/calls/rtc_)(\d{1,3})-")
CHANNEL_PATH = re.compile(r"/whip/[^/]+/(?:events|captions\.vtt)$")
"""Of a channel, which any gateway may have: the others are asked, then this one."""
HANDED_ON = "x-handed-on"
NOT_HANDED_ON = {"host", "content-length", "transfer-encoding", "connection"}
NOT_FOUND = 404
GONE = JSONResponse({"op": "error", "reason": "not_found", "message": "the gateway of this session is gone"}, NOT_FOUND)
TIMEOUT_SECONDS = 10.0  # to connect and to send; words may be read for as long as somebody speaks


SOCKET_VARIABLE = "ASR_GATEWAY_SOCKET"
"""From the supervisor: where a gateway listens for the others."""


@dataclass(frozen=True)
class Place:
    """A gateway among the others."""

    directory: Path
    number: int
    """From 1."""

    @classmethod
    def of(cls, path: str) -> "Place":
        return cls(Path(path).parent, int(Path(path).name.rpartition("-")[2]))

    @property
    def path(self) -> Path:
        return self.directory / f"gateway-{self.number}"

    def listen(self) -> socket.socket:
        """For what the others hand on. A socket that was left behind by a process that died is taken over."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        return listener


class Forwarding:
    """In front of a gateway's app."""

    def __init__(self, app: ASGIApp, place: Place, listen: Listen):
        self._app = app
        others = (Place(place.directory, number) for number in range(1, listen.workers + 1) if number != place.number)
        self._clients = {other.number: client_of(other, listen.has_tls) for other in others}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for client in self._others(scope) if scope["type"] == "http" else ():
            request = Request(scope, receive)
            if await hand_on(client, request, send, is_certain=CHANNEL_PATH.match(scope["path"]) is None):
                return
        await self._app(scope, receive, send)

    def _others(self, scope: Scope) -> list[httpx.AsyncClient]:
        """Those that may have what the request is about."""
        if owner := NAMED_PATH.match(scope["path"]):
            client = self._clients.get(int(owner[1]))
            return [client] if client else []
        is_channel = CHANNEL_PATH.match(scope["path"]) and HANDED_ON not in Headers(scope=scope)
        return list(self._clients.values()) if is_channel else []


def client_of(place: Place, has_tls: bool) -> httpx.AsyncClient:
    """Behind a Unix socket that this server alone can reach, there is no certificate to check."""
    transport = httpx.AsyncHTTPTransport(uds=str(place.path), verify=False)
    timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
    return httpx.AsyncClient(transport=transport, base_url=f"http{'s' * has_tls}://gateway", timeout=timeout)


async def hand_on(client: httpx.AsyncClient, request: Request, send: Send, is_certain: bool) -> bool:
    """Whether it was answered. is_certain: nobody else can; otherwise what is not found there is looked for elsewhere."""
    headers = [(name, value) for name, value in request.headers.items() if name not in NOT_HANDED_ON] + [(HANDED_ON, "1")]
    asked = client.build_request(
        request.method, request.url.path, headers=headers, content=await request.body() if is_certain else b""
    )
    try:
        answer = await client.send(asked, stream=True)
    except httpx.TransportError:
        if is_certain:
            await GONE(request.scope, request.receive, send)
        return is_certain
    if not is_certain and answer.status_code == NOT_FOUND:
        await answer.aclose()
        return False
    response = StreamingResponse(body_of(answer), answer.status_code)
    response.raw_headers = [(name.lower(), value) for name, value in answer.headers.raw]
    await response(request.scope, request.receive, send)
    return True


async def body_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
