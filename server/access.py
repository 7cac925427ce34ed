"""Tokens that let a client in for a while, signed so that every process of the server can read them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer

from server.errors import ClientError, Code

PREFIX = "ek_"  # OpenAI's, for a key that is good for a while
LEAST_SECONDS, MOST_SECONDS, DEFAULT_SECONDS = 10, 7200, 600  # OpenAI's, of a client secret


@dataclass(frozen=True)
class ClientSecret:
    """A key for a browser: good until it expires, with the session that it opens."""

    value: str
    expires_at: int
    session: dict[str, Any]


class ClientSecrets:
    """Issues and reads them."""

    def __init__(self, key: str, clock: Callable[[], float] = time.time):
        self._serializer = URLSafeSerializer(key, salt="client secret")
        self._clock = clock

    def issue(self, session: dict[str, Any], seconds: int = DEFAULT_SECONDS) -> ClientSecret:
        expires_at = int(self._clock()) + seconds
        value = self._serializer.dumps({"expires_at": expires_at, "session": session})
        return ClientSecret(PREFIX + str(value), expires_at, session)

    def read(self, key: str) -> ClientSecret | None:
        """None for a key of another kind. Raises ClientError for a secret that is not ours or has expired."""
        if not key.startswith(PREFIX):
            return None
        try:
            content = self._serializer.loads(key.removeprefix(PREFIX))
        except BadSignature as exc:
            raise ClientError(Code.INVALID_KEY, "the client secret was not issued by this server") from exc
        if content["expires_at"] < self._clock():
            raise ClientError(Code.INVALID_KEY, "the client secret has expired")
        return ClientSecret(key, content["expires_at"], content["session"])
