"""The start of every server process: from the environment to an open engine."""

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.engine import selection
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Engine
from runtime.engine.selection import Choice
from runtime.exceptions import EngineError
from runtime.scheduler.inbox import Inbox
from runtime.scheduler.loop import EngineLoop
from runtime.tokenizer import Tokenizer
from server import settings as settings_module
from server.access import Keys, version_of
from server.errors import SettingsError, StartError
from server.settings import Listen, Settings, is_loopback
from server.telemetry import logs
from server.telemetry.metrics import Metrics

logger = logging.getLogger("server")

SEGMENT_MARGIN_SECONDS = 1.0  # one message may make a segment longer than its maximum before it is cut
TLS_LOOK_SECONDS = 2.0  # time between two checks of the certificate
LEAST_SESSIONS = 2  # for a machine that carries one live stream: one session that speaks, and one that begins or ends
EVERY_ADDRESS, EVERY_IPV4_ADDRESS = "::", "0.0.0.0"
BACKLOG = 1024  # connections that wait to be accepted
START_STATUS, SETTINGS_STATUS, ENGINE_STATUS = 1, 2, 3  # exit statuses of a start that fails


def started(run: Callable[[Settings], int], environment: Mapping[str, str] = os.environ) -> int:
    """Read the settings and run; returns the exit status. An error at the start is printed as one line, without a traceback."""
    try:
        settings = settings_module.load(environment)
        set_up_log(settings)
        raise_file_limit()
        return run(settings)
    except SettingsError as exc:
        return failed(exc, SETTINGS_STATUS)
    except StartError as exc:
        return failed(exc, START_STATUS)
    except EngineError as exc:
        return failed(exc, ENGINE_STATUS)


def failed(error: Exception, status: int) -> int:
    print(error, file=sys.stderr)
    return status


def set_up_log(settings: Settings) -> None:
    logs.set_up(settings.telemetry.log_level, settings.telemetry.log_format == "json")


@dataclass(frozen=True)
class Listeners:
    """Sockets that accept connections."""

    http: tuple[socket.socket, ...]
    apis: Mapping[str, socket.socket]
    """Sockets of APIs that have their own port, by name."""
    admin: socket.socket | None = None

    def close(self) -> None:
        for each in (*self.http, *self.apis.values(), *([self.admin] if self.admin else [])):
            each.close()


def check_tls(settings: Listen) -> None:
    """Raises StartError if the certificate cannot be used. uvicorn would end with a traceback."""
    cert, key = settings.tls_cert, settings.tls_key
    if (cert is None) != (key is None):
        raise StartError("ASR_TLS_CERT and ASR_TLS_KEY go together")
    if cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=no_password)
    except (OSError, ValueError) as exc:
        raise StartError(f"the certificate cannot be used: {exc} (ASR_TLS_CERT={cert}, ASR_TLS_KEY={key})") from exc


def check_access(settings: Settings) -> None:
    """Raises StartError if keys are set and an API without keys is not on the loopback. Warns if the server needs no keys."""
    keys, listening = Keys(settings.access.api_keys, settings.access.api_keys_file), settings.listen
    for each in listening.api_ports:
        if keys.are_needed and not is_loopback(each.host):
            raise StartError(f"{each.title} has no keys: with API keys it listens on the loopback only ({each.variables[0]})")
    if not keys.are_needed and not listening.is_local:
        logger.warning("whoever reaches %s is served: set ASR_API_KEYS, or ASR_HOST=127.0.0.1", listening.address)


async def keep_tls_fresh(context: ssl.SSLContext, settings: Listen) -> None:
    """Load the certificate again when its file has changed, for new connections. One that cannot be used is not loaded."""
    assert settings.tls_cert and settings.tls_key, "there is a certificate"
    read = [version_of(settings.tls_cert), version_of(settings.tls_key)]
    while True:
        await asyncio.sleep(TLS_LOOK_SECONDS)
        found = [version_of(settings.tls_cert), version_of(settings.tls_key)]
        if found == read:
            continue
        read = found
        try:
            check_tls(settings)
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password=no_password)
            logger.info("the certificate was read again")
        except (StartError, OSError) as exc:
            logger.error("the one from before goes on: %s", exc)


def no_password() -> str:
    """Raises ValueError. OpenSSL would otherwise wait for ever for a password on the terminal."""
    raise ValueError("its key has a password")


def listen_everywhere(settings: Listen, shared: bool = False) -> Listeners:
    """Open all sockets of the settings. Raises StartError.

    shared: with other processes; the kernel distributes connections evenly among those that listen.
    """
    check_tls(settings)
    http = listen_for_http(settings, shared)
    apis = {each.api: listen(each.host, each.port, shared, ", ".join(each.variables)) for each in settings.api_ports}
    admin = None
    if settings.admin_port:
        admin = listen(settings.admin_host, settings.admin_port, shared, "ASR_ADMIN_HOST, ASR_ADMIN_PORT")
    return Listeners(http, apis, admin)


def listen_for_http(settings: Listen, shared: bool = False) -> tuple[socket.socket, ...]:
    """Listen at the host's address, or at every IPv4 and every IPv6 address of the machine. Raises StartError.

    Each address family has its own socket: on a common one, an IPv4 client would have an address that the limits do not know.
    """
    if settings.host != EVERY_ADDRESS:
        return (listen(settings.host, settings.port, shared),)
    families = (EVERY_IPV4_ADDRESS, EVERY_ADDRESS) if has_ipv6() else (EVERY_IPV4_ADDRESS,)
    return tuple(listen(host, settings.port, shared) for host in families)


def has_ipv6() -> bool:
    """Return whether the machine has IPv6: a kernel or a container may be without it."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def listen(host: str, port: int, shared: bool = False, variables: str = "ASR_HOST, ASR_PORT") -> socket.socket:
    """Open a socket at an address. Raises StartError.

    shared: the socket is only bound; the server that uses it makes it listen. variables: the variables that gave the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return bind(host, port, family) if shared else socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc.strerror)  # below 0: of the resolver
        raise StartError(f"cannot listen on {host}:{port}: {reason.lower()} ({variables})") from exc


def bind(host: str, port: int, family: int) -> socket.socket:
    """Bind a socket to an address that other processes may share. Raises OSError."""
    bound = socket.socket(family)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind((host, port))
    return bound


def raise_file_limit() -> None:
    """Raise the limit of open files to the maximum: every connection is one, and the usual 1,024 are soon used up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def choice_of(settings: Settings) -> Choice:
    model = settings.model
    return selection.choose(model.engines_path, model.model_id, model.precision, model.engine_target)


def sized(settings: Settings, found: Manifest) -> Settings:
    """Return the settings with the session limit that suits the engine, if none is set."""
    if settings.access.max_sessions or not found.live_streams:
        return settings
    access = settings.access.model_copy(update={"max_sessions": max(LEAST_SESSIONS, found.live_streams)})
    logger.info("at most %d sessions: as many live streams as the engine carries here (ASR_MAX_SESSIONS)", access.max_sessions)
    return settings.model_copy(update={"access": access})


def open_for_serving(settings: Settings, metrics: Metrics, inbox: Inbox | None = None) -> tuple[EngineLoop, Engine, Tokenizer]:
    """Open the engine. Returns the loop that will own it, not started, the engine, and its tokenizer. inbox: see EngineLoop.

    Raises EngineDirectoryError, and DeviceError or EngineFailed if the engine's device is missing or fails.
    """
    choice = choice_of(settings)
    if choice.remark:
        logger.warning("%s", choice.remark)
    longest_seconds = settings.session.max_segment_seconds + SEGMENT_MARGIN_SECONDS
    threads, max_streams = settings.model.cpu_threads or None, settings.access.session_limit
    engine, tokenizer, found = selection.open_engine(choice, settings.batching.max_batch, threads, longest_seconds, max_streams)
    logger.info("engine: %s, %s, weights: %s", engine.name, found.model, found.weights_source)
    if engine.limits.continues_clips and engine.limits.max_batch < max_streams:
        logger.warning(
            "the engine keeps the audio of %d streams, and there may be %d sessions: others are encoded again with each update "
            "(ASR_MAX_BATCH, ASR_MAX_SESSIONS)",
            engine.limits.max_batch,
            max_streams,
        )
    metrics.watch(engine)
    wait_seconds = settings.batching.max_wait_ms / 1000
    return (
        EngineLoop(engine, wait_seconds, metrics, warm_up_seconds=settings.model.warmup_seconds, inbox=inbox),
        engine,
        tokenizer,
    )
