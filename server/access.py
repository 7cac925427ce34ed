"""Access control: API keys, and signed tokens that replace a key for a short time. Every process can read the tokens."""

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer

from server.errors import ClientError, Code, StartError
from server.settings import LEAST_KEY_CHARACTERS

logger = logging.getLogger(__name__)

SECRET_PREFIX = "ek_"  # of client secrets, which are keys with a limited lifetime
LEAST_SECONDS, MOST_SECONDS, DEFAULT_SECONDS = 10, 7200, 600  # lifetime of a client secret
TOKEN_PREFIX = "tk_"
TOKEN_SECONDS = 60
LOOK_SECONDS = 1.0  # time between two checks of the key file
SWEEP_SECONDS = 60.0


@dataclass(frozen=True)
class Caller:
    """The person or program that a request comes from."""

    name: str
    """Name for logs and for counting; never the key."""
    max_sessions: int = 0
    """Most sessions at once; 0 means as many as the server has."""
    per_minute: int = 0
    """Most requests in a minute, not counting those that only read; 0 means no limit."""
    address: str = ""
    """IP address of the caller; empty if it is not known."""
    is_identified: bool = True
    """False while the caller may still name its key."""


ANYONE = Caller("anyone")


def read_keys(text: str) -> dict[bytes, Caller]:
    """Return the callers by the SHA-256 of their keys. Raises ValueError, whose text contains no key.

    text: entries separated by commas or line breaks, each `KEY [name=NAME] [sessions=N] [per_minute=N]`; # begins a comment.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    entries = [words for line in lines for entry in line.split(",") if (words := entry.split())]
    callers = {}
    for number, (key, *options) in enumerate(entries, 1):
        try:
            callers[digest(checked(key))] = caller_of(key, options)
        except ValueError as exc:
            raise ValueError(f"key {number}: {exc}") from None
    names = [caller.name for caller in callers.values()]
    if len(set(names)) < len(entries):
        raise ValueError("two keys are the same, or have the same name")
    return callers


def checked(key: str) -> str:
    if len(key) < LEAST_KEY_CHARACTERS or not key.isascii():
        raise ValueError(f"a key has at least {LEAST_KEY_CHARACTERS} ASCII characters")
    if key.startswith((SECRET_PREFIX, TOKEN_PREFIX)):
        raise ValueError(f"{SECRET_PREFIX} and {TOKEN_PREFIX} begin the tokens that the server issues")
    return key


def caller_of(key: str, options: list[str]) -> Caller:
    values = dict(option.partition("=")[::2] for option in options)
    if set(values) - {"name", "sessions", "per_minute"}:
        raise ValueError("what stands behind it is none of name=, sessions= and per_minute=; keys are separated by commas")
    numbers = [values.get(name, "0") for name in ("sessions", "per_minute")]
    if not all(number.isdecimal() and number.isascii() for number in numbers):
        raise ValueError("sessions= and per_minute= take whole numbers")
    name = values.get("name") or f"key-{digest(key).hex()[:8]}"
    return Caller(name, max_sessions=int(numbers[0]), per_minute=int(numbers[1]))


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


class Keys:
    """API keys from the settings and from a file. The file is read again when it has changed."""

    def __init__(self, text: str = "", path: Path | None = None, clock: Callable[[], float] = time.monotonic):
        """Raises StartError if the keys cannot be used."""
        self._text, self._path, self._clock = text, path, clock
        self._looked_at = clock()
        self._version = version_of(path)
        try:
            self._callers = self._read()
        except (ValueError, OSError) as exc:
            raise StartError(f"the API keys cannot be used: {exc} (ASR_API_KEYS, ASR_API_KEYS_FILE)") from exc

    @property
    def are_needed(self) -> bool:
        """True if there are keys or a key file. An empty file admits nobody."""
        return bool(self._text or self._path)

    def find(self, key: str) -> Caller | None:
        """Return the caller with this key, or None. The time that it takes does not depend on the key."""
        asked, found = digest(key), None
        for known, caller in self._current().items():
            if hmac.compare_digest(asked, known):
                found = caller
        return found

    def named(self, name: str) -> Caller | None:
        """Return the caller with this name; None if its key is no longer known."""
        return next((caller for caller in self._current().values() if caller.name == name), None)

    def _current(self) -> dict[bytes, Caller]:
        now = self._clock()
        if self._path is not None and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        return self._callers

    def _look(self) -> None:
        version = version_of(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._callers = self._read()
            logger.info("the API keys were read again: %d are known", len(self._callers))
        except (ValueError, OSError) as exc:
            logger.error("the changed API keys cannot be used, those from before go on: %s", exc)

    def _read(self) -> dict[bytes, Caller]:
        return read_keys(f"{self._text}\n{self._path.read_text(encoding='utf-8') if self._path else ''}")


def version_of(path: Path | None) -> tuple[int, int, int]:
    """Return a value that differs when the file was changed or replaced."""
    try:
        found = path.stat() if path else None
    except OSError:
        found = None
    return (found.st_mtime_ns, found.st_ino, found.st_size) if found else (0, 0, 0)


def opened(serializer: URLSafeSerializer, signed: str, now: float, what: str) -> dict[str, Any]:
    """Read a signed value. Raises ClientError if it has expired or is not ours."""
    try:
        content: dict[str, Any] = serializer.loads(signed)
    except BadSignature as exc:
        raise ClientError(Code.INVALID_KEY, f"the {what} was not issued by this server") from exc
    if content["expires_at"] < now:
        raise ClientError(Code.INVALID_KEY, f"the {what} has expired")
    return content


@dataclass(frozen=True)
class Token:
    """A token that admits its holder once, in the name of the caller that requested it."""

    value: str = field(repr=False)
    expires_at: int


class Tokens:
    """Issues tokens and accepts each of them once."""

    def __init__(self, key: str, used: "UsedTokens", clock: Callable[[], float] = time.time):
        self._serializer = URLSafeSerializer(key, salt="token")
        self._used, self._clock = used, clock

    def issue(self, caller: Caller) -> Token:
        expires_at = int(self._clock()) + TOKEN_SECONDS
        content = {"id": secrets.token_hex(16), "expires_at": expires_at, "name": caller.name}
        return Token(TOKEN_PREFIX + str(self._serializer.dumps(content)), expires_at)

    def take(self, token: str) -> str:
        """Return the name of the caller that requested the token.

        Raises ClientError if the token is not ours, has expired or was used before.
        """
        content = opened(self._serializer, token.removeprefix(TOKEN_PREFIX), self._clock(), "token")
        if not self._used.add(content["id"]):
            raise ClientError(Code.INVALID_KEY, "the token was used before; it lets in once")
        return str(content["name"])


class UsedTokens:
    """Names of used tokens: in memory, or as files in a directory if several gateways share them."""

    def __init__(self, directory: Path | None = None, clock: Callable[[], float] = time.time):
        self._directory, self._clock = directory, clock
        self._used_at: dict[str, float] = {}  # by name; used without a directory
        self._swept_at = clock()

    def add(self, name: str) -> bool:
        """Add a name. Returns False if this or another process has added it before."""
        self._sweep()
        if self._directory is not None:
            return self._add_file(self._directory, name)
        is_new = name not in self._used_at
        self._used_at.setdefault(name, self._clock())
        return is_new

    def _add_file(self, directory: Path, name: str) -> bool:
        directory.mkdir(exist_ok=True)  # it may have been deleted
        try:
            os.close(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def _sweep(self) -> None:
        """Forget expired tokens: they are refused anyway."""
        now = self._clock()
        if now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        self._used_at = {name: at for name, at in self._used_at.items() if now - at <= 2 * TOKEN_SECONDS}
        for entry in os.scandir(self._directory) if self._directory and self._directory.exists() else ():
            with contextlib.suppress(FileNotFoundError):  # another process sweeps, too
                if now - entry.stat().st_mtime > 2 * TOKEN_SECONDS:
                    Path(entry.path).unlink()


@dataclass(frozen=True)
class ClientSecret:
    """A client secret: a key for a browser that is valid until it expires, and the session that it opens."""

    value: str = field(repr=False)
    expires_at: int
    session: dict[str, Any]
    name: str
    """Name of the caller that asked for it."""


class ClientSecrets:
    """Issues and reads client secrets."""

    def __init__(self, key: str, clock: Callable[[], float] = time.time):
        self._serializer = URLSafeSerializer(key, salt="client secret")
        self._clock = clock

    def issue(self, session: dict[str, Any], seconds: int = DEFAULT_SECONDS, caller: Caller = ANYONE) -> ClientSecret:
        expires_at = int(self._clock()) + seconds
        value = self._serializer.dumps({"expires_at": expires_at, "session": session, "name": caller.name})
        return ClientSecret(SECRET_PREFIX + str(value), expires_at, session, caller.name)

    def read(self, key: str) -> ClientSecret | None:
        """Return the client secret; None for a key of another kind. Raises ClientError if it is not ours or has expired."""
        if not key.startswith(SECRET_PREFIX):
            return None
        content = opened(self._serializer, key.removeprefix(SECRET_PREFIX), self._clock(), "client secret")
        return ClientSecret(key, content["expires_at"], content["session"], content["name"])


class Gate:
    """Decides whether a request is admitted, by the key or token that it carries."""

    def __init__(self, keys: Keys, tokens: Tokens, secrets_: ClientSecrets):
        self.keys, self.tokens, self.secrets = keys, tokens, secrets_

    def let_in(self, key: str, address: str, takes_tokens: bool = True, takes_secrets: bool = False) -> Caller:
        """Return the caller that a key belongs to. Raises ClientError if the key is not accepted.

        takes_tokens, takes_secrets: whether tokens and client secrets are accepted. A path that issues them must not accept them.
        """
        caller = self._known(key, takes_tokens, takes_secrets) if self.keys.are_needed else ANYONE
        if caller is None:
            message = "the API key is not known" if key else "an API key is needed, as Authorization: Bearer KEY"
            raise ClientError(Code.INVALID_KEY, message)
        return replace(caller, address=address)

    def _known(self, key: str, takes_tokens: bool, takes_secrets: bool) -> Caller | None:
        if takes_tokens and key.startswith(TOKEN_PREFIX):
            return self.keys.named(self.tokens.take(key))
        if takes_secrets and (secret := self.secrets.read(key)):
            return self.keys.named(secret.name)
        return self.keys.find(key)
