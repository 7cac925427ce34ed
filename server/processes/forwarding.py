"""Several gateways share one port: a request about a session is forwarded to the gateway that has the session.

A session's name holds its gateway's number. Each gateway also listens on a Unix socket for requests from the others.
"""

from collections.abc import AsyncIterator

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.apis.session_names import ANYBODY, CHANNEL_WORDS_PATH, LIVE, SESSION_PATH, WANTED, no_sender, no_session
from server.errors import ClientError
from server.http.bodies import read_small_body
from server.http.error_responses import error_response
from server.processes.place import GatewayPlace
from server.settings import Listen

NOT_HANDED_ON = {b"host", b"content-length", b"transfer-encoding", b"connection", WANTED.encode()}
NOT_FOUND = 404
READING_METHODS = ("GET", "HEAD", "OPTIONS")  # without a body
KEPT_CONNECTIONS = 20
TIMEOUT_SECONDS = 10.0  # to connect and to send; words may be read for as long as somebody speaks


GONE, NOBODY = error_response(no_session()), error_response(no_sender())


class Forwarding:
    """Middleware before a gateway's app that forwards requests to other gateways."""

    def __init__(self, app: ASGIApp, place: GatewayPlace, listen: Listen):
        self._app = app
        others = (GatewayPlace(place.directory, number) for number in range(1, listen.workers + 1) if number != place.number)
        self._clients = {other.number: client_of(other, listen.has_tls) for other in others}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or WANTED in Headers(scope=scope):
            await self._app(scope, receive, send)
        elif (owner := SESSION_PATH.fullmatch(scope["path"])) and (client := self._clients.get(int(owner["gateway"]))):
            if not await hand_on(client, Request(scope, receive), send, ANYBODY):
                await GONE(scope, receive, send)
        elif CHANNEL_WORDS_PATH.fullmatch(scope["path"]):
            await self._find_channel(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _find_channel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the gateway whose sender sends now, or else one whose sender has sent before."""
        for wanted in (LIVE, ANYBODY):
            if await self._answered_here(scope, receive, send, wanted):
                return
            for client in self._clients.values():
                if await hand_on(client, Request(scope, receive), send, wanted):
                    return
        await NOBODY(scope, receive, send)

    async def _answered_here(self, scope: Scope, receive: Receive, send: Send, wanted: str) -> bool:
        """Answer from this gateway. Returns False if nothing is found; then nothing was sent."""
        is_found = False

        async def pass_on(message: Message) -> None:
            nonlocal is_found
            if message["type"] == "http.response.start":
                is_found = message["status"] != NOT_FOUND
            if is_found:
                await send(message)

        headers = [*scope["headers"], (WANTED.encode(), wanted.encode())]
        await self._app({**scope, "headers": headers}, receive, pass_on)
        return is_found


def client_of(place: GatewayPlace, has_tls: bool) -> httpx.AsyncClient:
    """Make a client for another gateway. Only this server uses the Unix socket, so no certificate is checked.

    Each reader of words holds a connection for as long as somebody speaks, so the number of connections has no limit here.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS)
    transport = httpx.AsyncHTTPTransport(uds=str(place.path), verify=False, limits=limits)
    timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
    return httpx.AsyncClient(transport=transport, base_url=f"http{'s' * has_tls}://gateway", timeout=timeout)


async def hand_on(client: httpx.AsyncClient, request: Request, send: Send, wanted: str) -> bool:
    """Forward the request unchanged. Returns False if nothing is found there, or the gateway does not answer."""
    try:
        body = b"" if request.method in READING_METHODS else await read_small_body(request)
    except ClientError as error:
        await error_response(error)(request.scope, request.receive, send)
        return True
    headers = [(name, value) for name, value in request.headers.raw if name not in NOT_HANDED_ON]
    try:
        url = client.base_url.copy_with(raw_path=request.scope["raw_path"])
        if url.raw_path != request.scope["raw_path"]:  # it was resolved to another path than the one that was checked
            return False
        asked = httpx.Request(request.method, url, headers=[*headers, (WANTED.encode(), wanted.encode())], content=body)
        answer = await client.send(asked, stream=True)
    except (httpx.TransportError, httpx.InvalidURL):
        return False
    if answer.status_code == NOT_FOUND:
        await answer.aclose()
        return False
    await handed_back(answer)(request.scope, request.receive, send)
    return True


def handed_back(answer: httpx.Response) -> StreamingResponse:
    """Pass the answer on unchanged, as it comes."""
    response = StreamingResponse(body_of(answer), answer.status_code)
    response.raw_headers = [(name.lower(), value) for name, value in answer.headers.raw]
    return response


async def body_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
