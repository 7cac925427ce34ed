"""The server's settings: read from the environment once, checked, then carried frozen."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIXES = ("ASR_", "MOONSHINE_", "MAX_BATCH_", "MAX_BUFFER_", "MODEL_WARMUP_")
"""Variables that begin like this are ours: one that is unknown is reported. MAX_ and MODEL_ alone are everybody's; of
those, only names that look like a slip of one of ours are reported."""

SESSIONS_PER_CORE = 6  # a dozen live streams on two cores


class SettingsError(Exception):
    """A variable's value cannot be used: one line that names the variable, the value and what is accepted."""


class IceServer(str):
    """`stun:host:port`, or `turn:user:password@host:port`; user and password are percent-encoded where they must be."""

    @property
    def url(self) -> str:
        scheme, _, rest = self.partition(":")
        return f"{scheme}:{rest.rpartition('@')[2]}"

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        _, _, rest = self.partition(":")
        user, _, password = rest.rpartition("@")[0].partition(":")
        return unquote(user) or None, unquote(password) or None


def variable(name: str) -> AliasChoices:
    return AliasChoices(name)


class Settings(BaseSettings):
    """Every variable, its default and its meaning; the README's table says the same."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, case_sensitive=True,
                                      env_ignore_empty=True)  # fmt: skip

    host: str = Field("0.0.0.0", validation_alias=variable("ASR_HOST"))
    """Address to listen on."""
    port: int = Field(8000, ge=1, le=65_535, validation_alias=variable("ASR_PORT"))
    """HTTP port."""
    webrtc_path: str = Field("/webrtc", pattern=r"^/\S+$", validation_alias=variable("ASR_WEBRTC_PATH"))
    """Path that takes the SDP offer."""
    model_id: str = Field("UsefulSensors/moonshine-base", min_length=1, validation_alias=variable("MOONSHINE_MODEL_ID"))
    """Model whose engine is served: the name it was built with."""
    precision: Literal["fp16", "bf16", "fp32", "int8"] | None = Field(None, validation_alias=variable("MOONSHINE_PRECISION"))
    """Unset: fp16 on a GPU, fp32 on a CPU."""
    target: Literal["auto", "onnxruntime", "tensorrt", "torch"] = Field("auto", validation_alias=variable("ASR_TARGET"))
    """What runs the engine. auto: tensorrt or torch where there is a GPU and the package, else onnxruntime."""
    engine_dir: Path = Field(Path("engines"), validation_alias=variable("ASR_ENGINE_DIR"))
    """Directory of engine directories, what engine_build/build.py was given as --out."""
    max_batch: int = Field(32, ge=1, le=1024, validation_alias=variable("MAX_BATCH_SIZE"))
    """Most streams in one engine step."""
    max_batch_wait_ms: float = Field(10.0, ge=0, le=1000, validation_alias=variable("MAX_BATCH_WAIT_MS"))
    """Longest an update waits for company while the engine is idle, in milliseconds."""
    max_buffer_seconds: float = Field(120.0, ge=10, le=3600, validation_alias=variable("MAX_BUFFER_SECONDS"))
    """Most audio a session may have waiting to be transcribed."""
    warmup_seconds: float = Field(1.5, gt=0, le=20, validation_alias=variable("MODEL_WARMUP_SECONDS"))
    """Length of the audio transcribed before the server says it is ready."""
    interim_interval_ms: float = Field(500.0, ge=50, le=5_000, validation_alias=variable("ASR_INTERIM_INTERVAL_MS"))
    """Shortest time between two updates of a session; under load it grows by itself."""
    max_segment_seconds: float = Field(12.0, ge=5, le=25, validation_alias=variable("ASR_MAX_SEGMENT_SECONDS"))
    """Speech without a pause is cut before it grows past this."""
    stable_agreement: int = Field(2, ge=2, le=20, validation_alias=variable("ASR_STABLE_AGREEMENT"))
    """Updates in a row that must agree on a word before it is called stable; more where the model is not sure of it."""
    workers: int = Field(1, ge=1, le=256, validation_alias=variable("ASR_WORKERS"))
    """Gateway processes; with more than one, the engine has a process of its own."""
    engines: int = Field(0, ge=0, le=64, validation_alias=variable("ASR_ENGINES"))
    """Engine processes behind several gateways; 0: one for each visible GPU, one without."""
    max_sessions: int = Field(0, ge=0, le=100_000, validation_alias=variable("ASR_MAX_SESSIONS"))
    """Most sessions at once; 0: six for each CPU core, as many as it carries."""
    init_timeout_seconds: float = Field(10.0, gt=0, le=600, validation_alias=variable("ASR_INIT_TIMEOUT_SECONDS"))
    """A connection that has not sent init by then is closed."""
    idle_timeout_seconds: float = Field(60.0, gt=0, le=86_400, validation_alias=variable("ASR_IDLE_TIMEOUT_SECONDS"))
    """A session that has sent nothing for this long is closed."""
    close_timeout_seconds: float = Field(30.0, gt=0, le=600, validation_alias=variable("ASR_CLOSE_TIMEOUT_SECONDS"))
    """Longest a client waits for its final after close before it gets an error."""
    shutdown_timeout_seconds: float = Field(20.0, gt=0, le=600, validation_alias=variable("ASR_SHUTDOWN_TIMEOUT_SECONDS"))
    """Longest the server waits for open sessions' finals after SIGTERM."""
    ice_servers: Annotated[tuple[IceServer, ...], NoDecode] = Field((), validation_alias=variable("ASR_ICE_SERVERS"))
    """Comma-separated stun:host:port and turn:user:password@host:port; none needed on a public or host address."""
    cpu_threads: int = Field(0, ge=0, le=1024, validation_alias=variable("ASR_CPU_THREADS"))
    """Threads of the CPU engine; 0: one for each core."""
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", validation_alias=variable("ASR_LOG_LEVEL"))
    """What is logged."""

    @field_validator("ice_servers", mode="before")
    @classmethod
    def parse_ice_servers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        servers = tuple(IceServer(part.strip()) for part in value.split(",") if part.strip())
        for server in servers:
            if urlsplit(server).scheme not in ("stun", "turn", "turns") or not server.url.partition(":")[2]:
                raise ValueError("expected stun:host:port or turn:user:password@host:port, separated by commas")
        return servers

    @property
    def engine_target(self) -> str | None:
        return None if self.target == "auto" else self.target

    @property
    def session_limit(self) -> int:
        return self.max_sessions or SESSIONS_PER_CORE * (os.cpu_count() or 1)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises SettingsError."""
    try:
        return Settings(**{name: environment[name] for name in variable_names() if environment.get(name)})
    except ValidationError as exc:
        raise SettingsError("; ".join(map(describe, exc.errors()))) from exc


def describe(error: dict) -> str:
    name = error["loc"][0] if error["loc"] else "settings"
    accepted = error["msg"].removeprefix("Value error, ")
    return f"{name}={error['input']!r} cannot be used: {accepted[0].lower()}{accepted[1:]}"


def variable_names() -> list[str]:
    return [str(field.validation_alias.choices[0]) for field in Settings.model_fields.values()]


def misspelt(environment: Mapping[str, str] = os.environ) -> list[str]:
    """One line for each variable that looks like one of ours and is not."""
    known, lines = variable_names(), []
    for name in sorted(set(environment) - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name.startswith(PREFIXES) or (near and name.startswith(("MAX_", "MODEL_"))):
            hint = f"; did you mean {near[0]}?" if near else "; the README lists the variables"
            lines.append(f"unknown variable {name} is ignored{hint}")
    return lines
