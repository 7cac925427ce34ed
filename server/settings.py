"""The server's settings: read from the environment once, checked, then carried frozen."""

import difflib
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress, IPvAnyNetwork, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from runtime.engine.manifest import default_engines
from server.errors import SettingsError

PREFIXES = ("ASR_", "MOONSHINE_", "MAX_BATCH_", "MAX_BUFFER_", "MODEL_WARMUP_")
"""Prefixes of our variables: an unknown variable with one of them is reported. Other programs also use MAX_ and MODEL_ alone;
of those, only names that look like a misspelt variable of ours are reported."""

MAX_SESSIONS_VARIABLE = "ASR_MAX_SESSIONS"
SECRET_KEY_VARIABLE = "ASR_SECRET_KEY"
SECRET_VARIABLES = ("ASR_ICE_SERVERS", SECRET_KEY_VARIABLE, "ASR_API_KEYS", "ASR_USAGE_KEY")  # their values are never shown
LEAST_KEY_CHARACTERS = 16
INTERNAL_VARIABLES = (
    "ASR_ENGINE_SOCKET",
    "ASR_GATEWAY_SOCKET",
    "ASR_HEARTBEAT_FILE",
    "ASR_HANDED_ON_SECRET",
    "ASR_API_KEY",
    "ASR_SERVER",
)
"""Variables that the supervisor sets for its processes, and variables of clients."""
API_PORT_VARIABLES = ("ASR_WYOMING_PORT", "ASR_VOSK_PORT", "ASR_AUDIOSOCKET_PORT")
"""Ports of the APIs that have their own port."""
API_TITLES = "OpenAI, Deepgram"  # APIs whose clients expect paths below /v1
PROCESS_KEY = secrets.token_hex(32)  # random: nobody else knows it
SESSIONS_PER_CORE = 6  # a dozen live streams on two cores
LONGEST_NAME = 64
REPLICA_NAME, NOT_OF_NAMES = rf"^[A-Za-z0-9._-]{{0,{LONGEST_NAME}}}$", re.compile(r"[^A-Za-z0-9._-]")
ROUTE_PATH = r"^(/[A-Za-z0-9._~-]+)+$"
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s,]+")
PORT_RANGE = re.compile(r"(?P<low>[0-9]{1,5})\s*-\s*(?P<high>[0-9]{1,5})")
LEAST_UDP_PORT = 1024
ICE_SERVER = re.compile(
    r"(?P<scheme>stun|turns?):(?:(?P<credentials>[^@]*)@)?(?P<address>[^\s:@\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
)


class IceServer(BaseModel):
    """A STUN or TURN server."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: str
    username: str | None = None
    password: str | None = Field(None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "IceServer":
        """Parse `stun:host:port` or `turn:user:password@host:port`. User and password are percent-encoded where necessary.

        Raises ValueError; its text contains no password.
        """
        match = ICE_SERVER.fullmatch(text)
        if match is None or not 0 < int(match["port"] or 3478) < 65_536:
            raise ValueError("expected stun:host:port or turn:user:password@host:port, separated by commas")
        user, _, password = (match["credentials"] or "").partition(":")
        url = f"{match['scheme']}:{match['address']}" + (f":{match['port']}" if match["port"] else "")
        return cls(url=url, username=unquote(user) or None, password=unquote(password) or None)


class AdvertisedAddress(BaseModel):
    """An address that is sent to clients instead of the machine's own, or in addition to it."""

    model_config = ConfigDict(frozen=True)

    ip: str
    is_beside: bool

    @classmethod
    def parse(cls, text: str) -> "AdvertisedAddress":
        """Parse `IP`, or `+IP` for an address in addition to the machine's own. Raises ValueError."""
        try:
            return cls(ip=str(ipaddress.ip_address(text.removeprefix("+"))), is_beside=text.startswith("+"))
        except ValueError:
            raise ValueError("expected an IP address, or one behind a +") from None


def parts_of(text: str) -> tuple[str, ...]:
    """Split a text at its commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SettingsGroup(BaseModel):
    """Settings that belong together; every field's alias is its environment variable."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_by_name=True, hide_input_in_errors=True
    )


class ApiPort(NamedTuple):
    """The port of an API that has its own port and no keys."""

    api: str
    title: str
    host: str
    port: int
    variables: tuple[str, str]
    """Variables of the host and of the port."""


def host_and_port(host: str, port: int) -> str:
    """Return HOST:PORT as it stands in a URL: an IPv6 address has brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listen(SettingsGroup):
    """Addresses where clients reach the server."""

    host: str = Field("::", alias="ASR_HOST")
    """Address to listen on. `::` means every IPv6 and every IPv4 address of the machine, `0.0.0.0` every IPv4 address."""
    port: int = Field(8000, ge=1, le=65_535, alias="ASR_PORT")
    """HTTP port."""
    tls_cert: Path | None = Field(None, alias="ASR_TLS_CERT")
    """Certificate chain, in PEM: the HTTP port then speaks TLS. Browsers allow the microphone only over https or on localhost."""
    tls_key: Path | None = Field(None, alias="ASR_TLS_KEY")
    """Private key of the certificate, in PEM, without a password."""
    wyoming_port: int = Field(0, ge=0, le=65_535, alias="ASR_WYOMING_PORT")
    """Port of the Wyoming protocol for Home Assistant, which expects 10300. 0: none."""
    wyoming_host: str = Field("127.0.0.1", alias="ASR_WYOMING_HOST")
    """Address to listen on for Wyoming. The protocol has no keys: anyone who can reach the port can use the server."""
    wyoming_zeroconf: bool = Field(False, alias="ASR_WYOMING_ZEROCONF")
    """Whether the port is announced by zeroconf (mDNS), so that Home Assistant finds it on the local network."""
    vosk: bool = Field(False, alias="ASR_VOSK")
    """Whether a WebSocket at `/` speaks Vosk's protocol, for Jigasi, FreeSWITCH and Asterisk. Its clients send no keys."""
    vosk_port: int = Field(0, ge=0, le=65_535, alias="ASR_VOSK_PORT")
    """Separate port for Vosk's protocol, whose clients expect 2700. 0: none."""
    vosk_host: str = Field("127.0.0.1", alias="ASR_VOSK_HOST")
    """Address to listen on for Vosk's port. The protocol has no keys: anyone who can reach the port can use the server."""
    audiosocket_port: int = Field(0, ge=0, le=65_535, alias="ASR_AUDIOSOCKET_PORT")
    """Port for calls of Asterisk by AudioSocket, for example 9092. 0: none."""
    audiosocket_host: str = Field("127.0.0.1", alias="ASR_AUDIOSOCKET_HOST")
    """Address to listen on for AudioSocket. The protocol has no keys: anyone who can reach the port can use the server."""
    admin_port: int = Field(0, ge=0, le=65_535, alias="ASR_ADMIN_PORT")
    """Separate port for `/healthz`, `/readyz`, `/acceptz` and `/metrics`, without keys and without TLS. 0: none."""
    admin_host: str = Field("127.0.0.1", alias="ASR_ADMIN_HOST")
    """Address to listen on for the admin port."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field((), alias="ASR_TRUSTED_PROXIES")
    """Addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted, separated by commas."""
    webrtc_path: str = Field("/webrtc", pattern=ROUTE_PATH, alias="ASR_WEBRTC_PATH")
    """Path that receives the SDP offer."""
    replica: str = Field("", pattern=REPLICA_NAME, alias="ASR_REPLICA")
    """Name of this server among several. It is in the header `X-ASR-Replica` of every answer, in `ready`, and in the addresses
    of sessions. Unset: the host's name."""
    workers: int = Field(1, ge=1, le=256, alias="ASR_WORKERS")
    """Number of gateway processes. With more than one, the engine runs in its own process."""
    drain_seconds: float = Field(0.0, ge=0, le=86_400, alias="ASR_DRAIN_SECONDS")
    """Seconds that open sessions may go on after the first SIGTERM. No new sessions are accepted meanwhile. A second SIGTERM,
    or SIGINT, ends the wait. 0: open sessions get their finals at once."""
    shutdown_timeout_seconds: float = Field(20.0, gt=0, le=600, alias="ASR_SHUTDOWN_TIMEOUT_SECONDS")
    """Longest time that open sessions may take for their finals after SIGTERM."""

    @property
    def api_ports(self) -> list[ApiPort]:
        """Ports of the APIs that are switched on."""
        ports = (
            ApiPort(
                "wyoming", "the Wyoming protocol", self.wyoming_host, self.wyoming_port, ("ASR_WYOMING_HOST", "ASR_WYOMING_PORT")
            ),
            ApiPort("vosk", "Vosk's protocol", self.vosk_host, self.vosk_port, ("ASR_VOSK_HOST", "ASR_VOSK_PORT")),
            ApiPort(
                "audiosocket",
                "Asterisk's AudioSocket",
                self.audiosocket_host,
                self.audiosocket_port,
                ("ASR_AUDIOSOCKET_HOST", "ASR_AUDIOSOCKET_PORT"),
            ),
        )
        return [each for each in ports if each.port]

    @property
    def address(self) -> str:
        """Host and port as they stand in a URL."""
        return host_and_port(self.host, self.port)

    @property
    def is_local(self) -> bool:
        """True if no other machine can reach it."""
        return is_loopback(self.host)

    @property
    def replica_name(self) -> str:
        return self.replica or NOT_OF_NAMES.sub("-", socket.gethostname())[:LONGEST_NAME] or "replica"

    @property
    def has_tls(self) -> bool:
        return self.tls_cert is not None

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def parse_trusted_proxies(cls, value: object) -> object:
        return parts_of(value) if isinstance(value, str) else value


class Ice(SettingsGroup):
    """Addresses and ports of WebRTC's packets."""

    servers: tuple[IceServer, ...] = Field((), alias="ASR_ICE_SERVERS")
    """`stun:host:port` and `turn:user:password@host:port`, separated by commas.
    A server with a public or host address needs none. A STUN or TURN server that does not answer is left out until it does."""
    udp_ports: tuple[int, int] | None = Field(None, alias="ASR_UDP_PORTS")
    """Range of UDP ports to listen on, as in `50000-50999`. Give it two for each session. All gateways share the range.
    When all ports are in use, offers are refused with `server_full`. Unset: the kernel chooses the ports."""
    addresses: tuple[IPvAnyAddress, ...] = Field((), alias="ASR_ICE_ADDRESSES")
    """Addresses of this machine to listen on, separated by commas. Unset: all but the loopback."""
    advertised_address: AdvertisedAddress | None = Field(None, alias="ASR_ADVERTISED_ADDRESS")
    """Public address of this machine behind 1:1 NAT, as in most clouds: answers name it instead of the machine's own addresses.
    `+IP` names it in addition to them, for servers that also have clients inside the network."""

    @property
    def ports(self) -> range | None:
        return self.udp_ports and range(self.udp_ports[0], self.udp_ports[1] + 1)

    @field_validator("servers", mode="before")
    @classmethod
    def parse_servers(cls, value: object) -> object:
        return tuple(map(IceServer.parse, parts_of(value))) if isinstance(value, str) else value

    @field_validator("addresses", mode="before")
    @classmethod
    def parse_addresses(cls, value: object) -> object:
        return parts_of(value) if isinstance(value, str) else value

    @field_validator("advertised_address", mode="before")
    @classmethod
    def parse_advertised_address(cls, value: object) -> object:
        return AdvertisedAddress.parse(value.strip()) if isinstance(value, str) else value

    @field_validator("udp_ports", mode="before")
    @classmethod
    def parse_udp_ports(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        match = PORT_RANGE.fullmatch(value.strip())
        low, high = (int(match["low"]), int(match["high"])) if match else (0, 0)
        if not LEAST_UDP_PORT <= low < high < 65_536:
            raise ValueError(f"expected two ports from {LEAST_UDP_PORT:,} to 65,535, the lower one first, as in 50000-50999")
        return low, high


class Model(SettingsGroup):
    """The model, and the program that runs it."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str = Field("UsefulSensors/moonshine-base", min_length=1, alias="MOONSHINE_MODEL_ID")
    """Model to serve: the name that its engine was built with."""
    precision: Literal["fp16", "bf16", "fp32", "int8"] | None = Field(None, alias="MOONSHINE_PRECISION")
    """Precision of the engine. Unset: fp16 on a GPU, int8 for the native engine and on a CPU with VNNI, else fp32.
    ONNX Runtime has `fp32` and `int8`; it runs `fp16` and `bf16` in fp32 and reports this. The native engine also has `bf16`."""
    target: Literal["auto", "onnxruntime", "native", "tensorrt", "torch"] = Field("auto", alias="ASR_TARGET")
    """Program that runs the engine. auto: tensorrt or torch if there is a GPU and the package; native for int8 if it has been
    built or can be built; else onnxruntime. native: compiled C++, for x86 processors with AVX2."""
    engine_dir: Path | None = Field(None, alias="ASR_ENGINE_DIR")
    """Directory of the engines: `--out` of the build. Unset: `engines` in a checkout, else one in the user's cache directory."""
    engines: int = Field(0, ge=0, le=64, alias="ASR_ENGINES")
    """Number of engine processes with several gateways. 0: one for each visible GPU, or one without a GPU."""
    turn_model: str = Field("auto", min_length=1, alias="ASR_TURN_MODEL")
    """Model that judges from the audio whether a turn is over: auto, none, or a file. auto: the model of
    `moonshine-asr turns install`, if it is installed."""
    cpu_threads: int = Field(0, ge=0, le=1024, alias="ASR_CPU_THREADS")
    """Threads of the CPU engine. 0: one for each core."""
    warmup_seconds: float = Field(1.5, gt=0, le=20, alias="MODEL_WARMUP_SECONDS")
    """Length of the audio that is transcribed before the server is ready."""

    @property
    def engines_path(self) -> Path:
        return self.engine_dir or default_engines()

    @property
    def engine_target(self) -> str | None:
        return None if self.target == "auto" else self.target


class Batching(SettingsGroup):
    """Batching of requests on the engine."""

    max_batch: int = Field(32, ge=1, le=1024, alias="MAX_BATCH_SIZE")
    """Most streams that the engine works on at once."""
    max_wait_ms: float = Field(10.0, ge=0, le=1000, alias="MAX_BATCH_WAIT_MS")
    """Longest time that an update waits for other updates while the engine is idle, in milliseconds."""


class SessionLimits(SettingsGroup):
    """Limits of one session, and how often it is updated."""

    interim_interval_ms: float = Field(500.0, ge=50, le=5_000, alias="ASR_INTERIM_INTERVAL_MS")
    """Shortest time between two updates of a session, in milliseconds. It grows automatically under load, for long segments
    first."""
    max_segment_seconds: float = Field(12.0, ge=5, le=25, alias="ASR_MAX_SEGMENT_SECONDS")
    """Longest segment, in seconds. Speech without a pause is cut before it grows longer."""
    stable_agreement: int = Field(2, ge=2, le=20, alias="ASR_STABLE_AGREEMENT")
    """Number of consecutive updates that must agree on a word before it is stable, if the model is confident of it.
    Up to four times as many if it is not."""
    max_buffer_seconds: float = Field(120.0, ge=10, le=3600, alias="MAX_BUFFER_SECONDS")
    """Most audio of a session that may wait to be transcribed, in seconds. With more, the session ends with `buffer_overflow`.
    Instead of that, WebSockets are read more slowly, and browsers are also slowed down over WebRTC."""
    connect_timeout_seconds: float = Field(3.0, gt=0, le=60, alias="ASR_CONNECT_TIMEOUT_SECONDS")
    """Seconds until a WebRTC offer is given up if its connection is not there."""
    init_timeout_seconds: float = Field(10.0, gt=0, le=600, alias="ASR_INIT_TIMEOUT_SECONDS")
    """Seconds until a connection that has not sent `init` is closed."""
    idle_timeout_seconds: float = Field(60.0, gt=0, le=86_400, alias="ASR_IDLE_TIMEOUT_SECONDS")
    """Seconds until a session that sends nothing is closed."""
    max_session_seconds: float = Field(0.0, ge=0, alias="ASR_MAX_SESSION_SECONDS")
    """A live session that lasts longer is ended with `session_too_long`. 0: any length."""
    close_timeout_seconds: float = Field(30.0, gt=0, le=600, alias="ASR_CLOSE_TIMEOUT_SECONDS")
    """Longest time that a client waits for its final before it gets an error."""

    @property
    def interim_interval_seconds(self) -> float:
        return self.interim_interval_ms / 1000


class Files(SettingsGroup):
    """Limits of one uploaded recording."""

    max_upload_mb: int = Field(100, ge=1, le=10_000, alias="ASR_MAX_UPLOAD_MB")
    """Largest file, in megabytes."""
    max_file_seconds: float = Field(14_400.0, ge=1, le=360_000, alias="ASR_MAX_FILE_SECONDS")
    """Longest recording."""
    parallel_chunks: int = Field(8, ge=1, le=256, alias="ASR_FILE_STRETCHES")
    """Number of chunks of a recording that are transcribed in parallel. Live speech goes before all of them."""


class Access(SettingsGroup):
    """Access and limits of clients."""

    api_keys: str = Field("", repr=False, alias="ASR_API_KEYS")
    """API keys, separated by commas. If there are any, clients need one of them. A key may be followed by `name=NAME`, for
    logs, `sessions=N` and `per_minute=N`: the most sessions that it may have at once, and the most requests that it may send
    in a minute."""
    api_keys_file: Path | None = Field(None, alias="ASR_API_KEYS_FILE")
    """A file with such keys, one on each line. It is read again when it changes."""
    cors_origins: tuple[str, ...] = Field((), alias="ASR_CORS_ORIGINS")
    """Origins of other web pages that may use the server, as in `https://app.example.com`, separated by commas. `*`: all."""
    allowed_hosts: tuple[str, ...] = Field((), alias="ASR_ALLOWED_HOSTS")
    """Names by which the server may be reached, separated by commas, as in `asr.example.com` or `*.example.com`. IP addresses
    and `localhost` are always allowed. Unset: any name, but none if it listens on the loopback, without keys and without
    proxies."""
    max_sessions_per_address: int = Field(0, ge=0, le=100_000, alias="ASR_MAX_SESSIONS_PER_ADDRESS")
    """Most sessions of one IP address at once, in each gateway. 0: any number."""
    max_connecting_per_address: int = Field(256, ge=1, le=100_000, alias="ASR_MAX_CONNECTING_PER_ADDRESS")
    """Most connections of one IP address that have not sent `init` yet, in each gateway. They do not count as sessions."""
    per_minute: int = Field(0, ge=0, le=1_000_000, alias="ASR_REQUESTS_PER_MINUTE")
    """Most requests of one IP address in a minute that open a session or send a file, in each gateway. 0: any number."""

    max_sessions: int = Field(0, ge=0, le=100_000, alias=MAX_SESSIONS_VARIABLE)
    """Most sessions at once. 0: on a CPU, as many live streams as the build of the engine measured on this machine; on a GPU,
    six for each CPU core. Set it on a GPU."""

    usage_key: str = Field("", repr=False, alias="ASR_USAGE_KEY")
    """Key of at least 16 characters that opens `/v1/usage`, the usage of each API key. Unset: nobody may read it."""
    secret_key: str = Field("", repr=False, alias=SECRET_KEY_VARIABLE)
    """Key that signs short-lived tokens. Unset: a key that lasts until the server ends.
    Set it if several servers must accept each other's tokens."""

    @field_validator("cors_origins", mode="before")
    @classmethod
    def parse_cors_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(part.rstrip("/") for part in parts_of(value))
        if wrong := [origin for origin in origins if not ORIGIN.fullmatch(origin)]:
            raise ValueError(f"expected origins such as https://app.example.com, separated by commas, or *, not {wrong[0]!r}")
        return origins

    @field_validator("usage_key")
    @classmethod
    def check_usage_key(cls, value: str) -> str:
        if value and (len(value) < LEAST_KEY_CHARACTERS or not value.isascii()):
            raise ValueError(f"expected at least {LEAST_KEY_CHARACTERS} ASCII characters")
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def parse_allowed_hosts(cls, value: object) -> object:
        return parts_of(value.lower()) if isinstance(value, str) else value

    @property
    def signing_key(self) -> str:
        return self.secret_key or PROCESS_KEY

    @property
    def session_limit(self) -> int:
        return self.max_sessions or SESSIONS_PER_CORE * (os.cpu_count() or 1)


class Telemetry(SettingsGroup):
    """Logs of the server."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", alias="ASR_LOG_LEVEL")
    """Lowest level that is logged."""
    log_format: Literal["console", "json"] = Field("console", alias="ASR_LOG_FORMAT")
    """Format of the log: console for people, json for an object on each line."""
    log_text: bool = Field(False, alias="ASR_LOG_TEXT")
    """Whether the transcribed text is logged at the end of each session."""


class Settings(BaseModel):
    """Every variable, its default and its meaning; docs/configuration.md is generated from them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    listen: Listen = Listen()
    ice: Ice = Ice()
    model: Model = Model()
    batching: Batching = Batching()
    session: SessionLimits = SessionLimits()
    files: Files = Files()
    access: Access = Access()
    telemetry: Telemetry = Telemetry()


def variables() -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield the group, the environment variable and the field of every setting."""
    for group, field in Settings.model_fields.items():
        for setting in field.annotation.model_fields.values():  # type: ignore[union-attr]  # every field is a SettingsGroup
            yield group, str(setting.alias), setting


def default_of(field: FieldInfo) -> str:
    """Return the default as text; empty if an unset variable has its own meaning."""
    return "" if field.default in (None, ()) else str(field.default)


def meaning_of(field: FieldInfo) -> str:
    """Return the description of a setting, in one line."""
    return " ".join(str(field.description).split())


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; an empty variable counts as unset. Raises SettingsError."""
    values: dict[str, dict[str, str]] = {}
    for group, name, _ in variables():
        if environment.get(name):
            values.setdefault(group, {})[name] = environment[name]
    try:
        return Settings.model_validate(values)
    except ValidationError as exc:
        raise SettingsError("; ".join(describe(error, environment) for error in exc.errors())) from None


EXPECTED = {
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "bool_parsing": "expected true or false",
}
"""Sentences that replace those of the library that reads the settings, by its types of errors."""


def describe(error: ErrorDetails, environment: Mapping[str, str]) -> str:
    name = str(error["loc"][1])
    shown = "" if name in SECRET_VARIABLES else f"={environment[name]!r}"
    accepted = EXPECTED.get(error["type"]) or error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{name}{shown} cannot be used: {accepted[0].lower()}{accepted[1:]}"


def variable_names() -> list[str]:
    return [name for _, name, _ in variables()]


def misspelt(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return one line for each variable that looks like one of ours and is not."""
    known, lines = variable_names(), []
    for name in sorted(set(environment) - set(known) - set(INTERNAL_VARIABLES)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name.startswith(PREFIXES) or (near and name.startswith(("MAX_", "MODEL_"))):
            hint = f"; did you mean {near[0]}?" if near else "; docs/configuration.md lists the variables"
            lines.append(f"unknown variable {name} is ignored{hint}")
    return lines
