"""Access over HTTP: keys, the origin of a browser's request, and request rates."""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, parse_qs, urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.access import ANYONE, TOKEN_PREFIX, Caller, Gate
from server.errors import ClientError, Code, Refused, ServerError
from server.http import usage
from server.http.deadlines import punctual
from server.http.error_responses import error_response
from server.settings import Settings
from server.telemetry.metrics import Metrics

OPEN_PATHS = ("/", "/llms.txt", "/docs", "/openapi.json", "/favicon.ico", "/healthz", "/readyz", "/acceptz")
OPEN_PREFIXES = ("/web/", "/docs/", "/swagger/")  # files of the page and of /docs
TOKENS_PATH = "/v1/tokens"
SCHEMES = ("bearer", "token")
DEFAULT_PORTS = {"http": 80, "https": 443}
HEALTH_PATHS = ("/healthz", "/readyz", "/acceptz", "/metrics")
NO_DOTS = error_response(ClientError(Code.NOT_FOUND, "a path must not have . or .. in it"))
UNPRINTABLE = ClientError(Code.NOT_FOUND, "a path has printable characters only")
"""Routes also match a path that is followed by a line break, but the access rules for the path do not."""
NOTHING_ELSE = error_response(ClientError(Code.NOT_FOUND, "health and metrics are told here, and nothing else"))
LOCAL_HOSTS = ("localhost", "*.localhost")
IPV6_NETWORK_BITS = 64  # one customer or one machine may choose any address of such a network
UNIDENTIFIED = "unidentified"
"""Name of a caller that has not named its key yet."""
READING_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class ApiAccess:
    """Access rules of the paths of one API."""

    prefix: str
    refuse: Callable[[ServerError], Response]
    """Makes an error response in the format of the API."""
    key_protocols: tuple[str, ...] = ()
    """Prefixes of WebSocket subprotocols that hold the key."""
    pair_protocols: tuple[str, ...] = ()
    """Subprotocols that are followed by the key as the next subprotocol."""
    takes_secrets: bool = False
    """Whether client secrets are accepted."""
    names_key_later: bool = False
    """Whether a client may name its key in its first message. The API's session then calls identify()."""
    issuing_paths: tuple[str, ...] = ()
    """Paths that accept only a key itself: with a token, a client could get new tokens for ever."""


class AccessControl:
    """Middleware before the app. An admitted request carries its caller, and the key that the client sent."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        settings: Settings,
        metrics: Metrics,
        apis: Sequence[ApiAccess],
        named_sessions: re.Pattern[str],
    ):
        """apis: the first one with a prefix of the path applies. named_sessions: paths that hold the name of a session."""
        self._apis, self._named_sessions = apis, named_sessions
        self._key_protocols = tuple(prefix for api in apis for prefix in api.key_protocols)
        self._pair_protocols = tuple(name for api in apis for name in api.pair_protocols)
        self._issuing_paths = {TOKENS_PATH, *(path for api in apis for path in api.issuing_paths)}
        self._admin_port = settings.listen.admin_port  # there, only health and metrics are served, without a key
        self._app, self._gate, self._access, self._metrics = app, gate, settings.access, metrics
        self._hosts = hosts_of(settings, not gate.keys.are_needed)
        self._rates = FixedWindowRateLimiter(MemoryStorage())  # a moving window would never forget an address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_internal(scope):
            await self._app(scope, receive, send)
            return
        if not scope["path"].isprintable():
            await self._answer(scope, receive, send, UNPRINTABLE)
            return
        if scope["type"] == "http" and has_dots(scope):
            await NO_DOTS(scope, receive, send)
            return
        if is_at(scope, self._admin_port):
            await (self._app if scope["path"] in HEALTH_PATHS else NOTHING_ELSE)(scope, receive, send)
            return
        try:
            scope["caller"] = self._caller(scope)
        except ServerError as error:
            self._metrics.refused_total.labels(error.code.value).inc()
            await self._answer(scope, receive, send, error)
            return
        await self._app(scope, punctual(receive) if scope["type"] == "http" else receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Return the caller of a request. Raises ServerError if it is refused."""
        headers = Headers(scope=scope)
        opens = scope["type"] == "websocket" or scope["method"] not in READING_METHODS
        if opens and not is_known(headers.get("host", ""), self._hosts):
            raise ClientError(Code.FORBIDDEN_HOST, "the server is not known by this name; ASR_ALLOWED_HOSTS lists those it has")
        if opens and is_foreign(headers, self._access.cors_origins):
            raise ClientError(
                Code.FORBIDDEN_ORIGIN, "pages of another origin are not let in; ASR_CORS_ORIGINS names those that are"
            )
        if self._is_open(scope):
            return ANYONE
        scope["key"] = self._key(HTTPConnection(scope))
        if scope["path"] == usage.PATH:  # it checks a separate key itself
            return ANYONE
        issues, api = scope["path"] in self._issuing_paths, api_of(self._apis, scope["path"])
        address = network_of((scope.get("client") or ("", 0))[0])
        if api is not None and api.names_key_later and not scope["key"] and scope["type"] == "websocket":
            scope["identify"] = lambda key: self._identified(key, address)
            unknown = Caller(UNIDENTIFIED, address=address, is_identified=False)
            self._count(unknown)
            return unknown
        caller = self._gate.let_in(scope["key"], address, not issues, not issues and api is not None and api.takes_secrets)
        if opens:
            self._count(caller)
        return caller

    def _identified(self, key: str, address: str) -> Caller:
        """Return the caller with this key. Raises ServerError if it is refused."""
        try:
            caller = self._gate.let_in(key, address)
            self._count_name(caller)  # the address was counted when the connection was opened
        except ServerError as error:
            self._metrics.refused_total.labels(error.code.value).inc()
            raise
        return caller

    def _is_open(self, scope: Scope) -> bool:
        """Return whether the path needs no key.

        Only the client that opened a session knows its name. An open page does not make a WebSocket at the same path open.
        """
        path = scope["path"]
        if scope["type"] == "websocket":
            return bool(self._named_sessions.fullmatch(path))
        if scope["method"] == "OPTIONS":
            return True
        return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES) or bool(self._named_sessions.fullmatch(path))

    def _key(self, connection: HTTPConnection) -> str:
        """Read the key from the place where the client's API puts it; empty if there is none.

        A browser cannot set a WebSocket's headers and sends its key as a subprotocol. Addresses get into logs, so only a token,
        which is valid once, is accepted in an address.
        """
        scheme, _, value = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() in SCHEMES:
            return value.strip()
        offered = connection.scope.get("subprotocols", [])
        for place, protocol in enumerate(offered):
            if protocol.lower() in self._pair_protocols and place + 1 < len(offered):
                return str(offered[place + 1])
            for prefix in self._key_protocols:
                if protocol.startswith(prefix):
                    return str(protocol.removeprefix(prefix))
        token = parse_qs(connection.scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return token if token.startswith(TOKEN_PREFIX) else ""

    async def _answer(self, scope: Scope, receive: Receive, send: Send, error: ServerError) -> None:
        """Refuse in the format of the path's API."""
        response = refusal_of(self._apis, scope["path"], error)
        if error.code is Code.INVALID_KEY:
            response.headers["WWW-Authenticate"] = "Bearer"
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)

    def _count(self, caller: Caller) -> None:
        """Count a request of a caller and of its address. Raises Refused if there are too many."""
        self._count_name(caller)
        self._hit(f"address {caller.address}", self._access.per_minute)

    def _count_name(self, caller: Caller) -> None:
        """Count a request of a caller. Raises Refused if there are too many."""
        self._hit(f"key {caller.name}", caller.per_minute)

    def _hit(self, name: str, most: int) -> None:
        """Count a request. Raises Refused if there are too many. most: requests in a minute; 0: any number."""
        if most and not self._rates.hit(RateLimitItemPerMinute(most), name):
            raise Refused(Code.RATE_LIMITED, f"{most} requests a minute are taken")


def api_of(apis: Sequence[ApiAccess], path: str) -> ApiAccess | None:
    return next((api for api in apis if path.startswith(api.prefix)), None)


def refusal_of(apis: Sequence[ApiAccess], path: str, error: ServerError) -> Response:
    """Return an error response in the format of the path's API."""
    api = api_of(apis, path)
    return api.refuse(error) if api else error_response(error)


def caller_of(connection: HTTPConnection) -> Caller:
    return connection.scope.get("caller", ANYONE)  # type: ignore[no-any-return]


def identify(connection: HTTPConnection, key: str) -> Caller:
    """Return the caller with this key, for a connection that may name its key later. Raises ServerError."""
    found = connection.scope.get("identify")
    return found(key) if found else caller_of(connection)


def key_of(connection: HTTPConnection) -> str:
    """Return the key that the client sent; empty if it sent none."""
    return str(connection.scope.get("key", ""))


def is_internal(scope: Scope) -> bool:
    """True if another gateway of this server forwarded the request over its Unix socket; that gateway has checked it."""
    match scope.get("server"):
        case [_, None]:
            return True
    return False


def has_dots(scope: Scope) -> bool:
    """Return whether the path has . or .. in it. A proxy resolves such a path, and another path than the checked one arrives."""
    return any(part in (".", "..") for part in scope["path"].split("/"))


def is_at(scope: Scope, port: int) -> bool:
    """True if the request came to this port of the server."""
    match scope.get("server"):
        case [_, int(found)]:
            return found == port > 0
    return False


def hosts_of(settings: Settings, is_open: bool) -> Sequence[str]:
    """Return the host names that requests may use; none means any. is_open: nobody needs a key."""
    if settings.access.allowed_hosts:
        return (*settings.access.allowed_hosts, *LOCAL_HOSTS)
    is_bare = settings.listen.is_local and is_open and not settings.listen.trusted_proxies
    return LOCAL_HOSTS if is_bare else ()


def is_known(host: str, names: Sequence[str]) -> bool:
    """Return whether a request may use this host name. Addresses are always allowed.

    A page can make its own name resolve to any address (DNS rebinding), and then has the same origin as this server. It cannot do
    so with an address, for which nobody sends a name.
    """
    if not names:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_address(name) or any(fnmatchcase(name, each) for each in names)


def is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def network_of(address: str) -> str:
    """Return the network that is counted as one address: an IPv6 customer has 2^64 addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_NETWORK_BITS), strict=False))


def is_foreign(headers: Headers, allowed: Sequence[str]) -> bool:
    """True if the request comes from a web page of another origin that is not allowed. Programs send no origin."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return False
    try:
        asking = urlsplit(origin)
        return place_of(asking) is None or place_of(asking) != place_of(urlsplit(f"{asking.scheme}://{headers.get('host', '')}"))
    except ValueError:  # not an address, or not a port
        return True


def place_of(address: SplitResult) -> tuple[str, int | None] | None:
    """Return host and port of an origin; None for "null", which any page can make its frames send."""
    return (address.hostname, address.port or DEFAULT_PORTS.get(address.scheme)) if address.hostname else None
