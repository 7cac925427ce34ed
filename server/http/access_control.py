"""Access over HTTP: keys, the origin of a browser's request, and rates."""

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
"""Routes match a path with a line break after it, which rules for the path itself do not."""
NOTHING_ELSE = error_response(ClientError(Code.NOT_FOUND, "health and metrics are told here, and nothing else"))
LOCAL_HOSTS = ("localhost", "*.localhost")
IPV6_NETWORK_BITS = 64  # what one line or one machine has to choose its addresses from
UNIDENTIFIED = "unidentified"
"""Name of a caller that has not named its key yet."""
READING_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class ApiAccess:
    """Access rules that are particular to the paths of one API."""

    prefix: str
    refuse: Callable[[ServerError], Response]
    """An error in the shape of the API."""
    key_protocols: tuple[str, ...] = ()
    """Prefixes of WebSocket subprotocols that hold the key."""
    pair_protocols: tuple[str, ...] = ()
    """Subprotocols after which the next one is the key."""
    takes_secrets: bool = False
    """Whether client secrets let in."""
    names_key_later: bool = False
    """Whether a client may name its key in its first message: then whoever serves it calls identify()."""
    issuing_paths: tuple[str, ...] = ()
    """Paths where only a key itself counts: a token would beget the next one, for ever."""


class AccessControl:
    """Middleware before the app. A request that it lets in carries its caller, and the key that the client sent."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        settings: Settings,
        metrics: Metrics,
        apis: Sequence[ApiAccess],
        named_sessions: re.Pattern[str],
    ):
        """apis: the first whose prefix a path has counts. named_sessions: paths that hold the name of a session."""
        self._apis, self._named_sessions = apis, named_sessions
        self._key_protocols = tuple(prefix for api in apis for prefix in api.key_protocols)
        self._pair_protocols = tuple(name for api in apis for name in api.pair_protocols)
        self._issuing_paths = {TOKENS_PATH, *(path for api in apis for path in api.issuing_paths)}
        self._admin_port = settings.listen.admin_port  # where health and metrics alone are told, to whoever reaches it
        self._app, self._gate, self._access, self._metrics = app, gate, settings.access, metrics
        self._hosts = hosts_of(settings, not gate.keys.are_needed)
        self._rates = FixedWindowRateLimiter(MemoryStorage())  # a moving window never forgets an address

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
        """Raises ServerError."""
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
        if scope["path"] == usage.PATH:  # which asks for a key of its own
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
        """Raises ServerError."""
        try:
            caller = self._gate.let_in(key, address)
            self._count_name(caller)  # the address was counted when the connection was opened
        except ServerError as error:
            self._metrics.refused_total.labels(error.code.value).inc()
            raise
        return caller

    def _is_open(self, scope: Scope) -> bool:
        """The names of sessions are known to nobody but whoever opened them. A page that is open makes no WebSocket open."""
        path = scope["path"]
        if scope["type"] == "websocket":
            return bool(self._named_sessions.fullmatch(path))
        if scope["method"] == "OPTIONS":
            return True
        return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES) or bool(self._named_sessions.fullmatch(path))

    def _key(self, connection: HTTPConnection) -> str:
        """Read the key from wherever the client's API puts it; empty if there is none.

        A browser cannot set a WebSocket's headers and brings its key as a subprotocol. Addresses get into logs, so that only a
        token, which lets in once, is taken from one.
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
        """Refuse in the shape of the path's API."""
        response = refusal_of(self._apis, scope["path"], error)
        if error.code is Code.INVALID_KEY:
            response.headers["WWW-Authenticate"] = "Bearer"
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)

    def _count(self, caller: Caller) -> None:
        """Raises Refused."""
        self._count_name(caller)
        self._hit(f"address {caller.address}", self._access.per_minute)

    def _count_name(self, caller: Caller) -> None:
        """Raises Refused."""
        self._hit(f"key {caller.name}", caller.per_minute)

    def _hit(self, name: str, most: int) -> None:
        """Raises Refused. most: requests a minute; 0: any number."""
        if most and not self._rates.hit(RateLimitItemPerMinute(most), name):
            raise Refused(Code.RATE_LIMITED, f"{most} requests a minute are taken")


def api_of(apis: Sequence[ApiAccess], path: str) -> ApiAccess | None:
    return next((api for api in apis if path.startswith(api.prefix)), None)


def refusal_of(apis: Sequence[ApiAccess], path: str, error: ServerError) -> Response:
    """An error in the shape of the API at the path."""
    api = api_of(apis, path)
    return api.refuse(error) if api else error_response(error)


def caller_of(connection: HTTPConnection) -> Caller:
    return connection.scope.get("caller", ANYONE)  # type: ignore[no-any-return]


def identify(connection: HTTPConnection, key: str) -> Caller:
    """Return the caller with this key, of a connection that may name it later. Raises ServerError."""
    found = connection.scope.get("identify")
    return found(key) if found else caller_of(connection)


def key_of(connection: HTTPConnection) -> str:
    """The key that the client brought; empty where it brought none."""
    return str(connection.scope.get("key", ""))


def is_internal(scope: Scope) -> bool:
    """True if another gateway of this server sent it, over its Unix socket; it was let in there."""
    match scope.get("server"):
        case [_, None]:
            return True
    return False


def has_dots(scope: Scope) -> bool:
    """Whoever hands such a path on resolves it, and another one than was let in arrives."""
    return any(part in (".", "..") for part in scope["path"].split("/"))


def is_at(scope: Scope, port: int) -> bool:
    """True if the request came to this port of the server."""
    match scope.get("server"):
        case [_, int(found)]:
            return found == port > 0
    return False


def hosts_of(settings: Settings, is_open: bool) -> Sequence[str]:
    """Names by which the server may be asked; none: any. is_open: nobody needs a key."""
    if settings.access.allowed_hosts:
        return (*settings.access.allowed_hosts, *LOCAL_HOSTS)
    is_bare = settings.listen.is_local and is_open and not settings.listen.trusted_proxies
    return LOCAL_HOSTS if is_bare else ()


def is_known(host: str, names: Sequence[str]) -> bool:
    """A page can make its own name lead to any address, and is then of one origin with what answers there.

    It cannot so be at a bare address, and nobody sends a name for one.
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
    """Network that is counted as one address: an IPv6 customer has 2^64 of them."""
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
    """True if a web page of another origin asks, and none of the allowed. Programs name no origin."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return False
    try:
        asking = urlsplit(origin)
        return place_of(asking) is None or place_of(asking) != place_of(urlsplit(f"{asking.scheme}://{headers.get('host', '')}"))
    except ValueError:  # no address, or a port that is none
        return True


def place_of(address: SplitResult) -> tuple[str, int | None] | None:
    """None for "null", which any page can have its frames send."""
    return (address.hostname, address.port or DEFAULT_PORTS.get(address.scheme)) if address.hostname else None
