"""The address of a client whose request another process of this server has forwarded.

That process proves itself with a secret. Any other client of the port, such as a user of the machine, is counted by its own
address.
"""

import hmac
import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

SECRET_VARIABLE = "ASR_HANDED_ON_SECRET"
"""Set by the process that forwards requests, for the process that answers them."""
SECRET_HEADER, ADDRESS_HEADER, SCHEME_HEADER = b"x-asr-handed-on", b"x-forwarded-for", b"x-forwarded-proto"
SCHEMES = {("http", b"https"): "https", ("websocket", b"https"): "wss"}
"""Schemes, by the kind of a request and by the scheme that a proxy reports."""


def new_secret() -> str:
    return secrets.token_urlsafe()


class HandedOn:
    """An application whose callers have the address and the scheme that a proven process reports."""

    def __init__(self, application: ASGIApp, secret: str):
        self._application, self._secret = application, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = dict(scope["headers"])
            address = headers.get(ADDRESS_HEADER)
            if address is not None and hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
                scope["client"] = (address.decode("latin-1"), 0)
                scope["scheme"] = SCHEMES.get((scope["type"], headers.get(SCHEME_HEADER, b"")), scope.get("scheme"))
        await self._application(scope, receive, send)
