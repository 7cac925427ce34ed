"""Several gateways share one port: a request about a session is handed on to the gateway that has it.

A session's name begins with its gateway's number. Each gateway listens on a Unix socket, too, for what the others hand on.
"""

import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.settings import Listen

NAMED_PATH = re.compile(r"/(?:whip/session/|v1/realtime/calls/rtc_)(\d{1,3})-")
NOT_HANDED_ON = {"host", "content-length", "transfer-encoding", "connection"}
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
        owner = NAMED_PATH.match(scope["path"]) if scope["type"] == "http" else None
        client = self._clients.get(int(owner[1])) if owner else None
        if client is None:
            await self._app(scope, receive, send)
        else:
            await hand_on(client, Request(scope, receive), send)


def client_of(place: Place, has_tls: bool) -> httpx.AsyncClient:
    """Behind a Unix socket that this server alone can reach, there is no certificate to check."""
    transport = httpx.AsyncHTTPTransport(uds=str(place.path), verify=False)
    timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
    return httpx.AsyncClient(transport=transport, base_url=f"http{'s' * has_tls}://gateway", timeout=timeout)


async def hand_on(client: httpx.AsyncClient, request: Request, send: Send) -> None:
    headers = [(name, value) for name, value in request.headers.items() if name not in NOT_HANDED_ON]
    asked = client.build_request(request.method, request.url.path, headers=headers, content=await request.body())
    try:
        answer = await client.send(asked, stream=True)
    except httpx.TransportError:
        gone = JSONResponse({"op": "error", "reason": "not_found", "message": "the gateway of this session is gone"}, 404)
        await gone(request.scope, request.receive, send)
        return
    response = StreamingResponse(body_of(answer), answer.status_code)
    response.raw_headers = [(name.lower(), value) for name, value in answer.headers.raw]
    await response(request.scope, request.receive, send)


async def body_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
