"""Sources of weights: a checkpoint directory, the model hub, or a package from Moonshine AI."""

import dataclasses
import hashlib
import json
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine_build import ort_weights, streaming_parameters
from engine_build import writing_systems as scripts
from engine_build.streaming_parameters import EXCLUSIVE, StreamingConfig, UnsupportedConfig

DEFAULT_MODEL = "UsefulSensors/moonshine-base"
TINY_MODEL = "UsefulSensors/moonshine-tiny"
ORGANISATIONS = ("UsefulSensors", "moonshine-ai")
HUB_SECONDS = 3.0  # for a connection to the hub
CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json")


class CheckpointError(Exception):
    """The requested weights are not available or not a Moonshine checkpoint; the message names them and says what to do."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one Moonshine model of clips; those of streams have a streaming_parameters.StreamingConfig."""

    dim: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    mlp_dim: int
    rotary_dim: int
    """Leading dimensions of each head that are rotated; the rest pass unchanged."""
    rope_theta: float
    vocabulary: int
    max_positions: int
    """Most tokens the decoder holds, the start token included."""
    start_token: int = 1
    end_token: int = 2

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def attention_dim(self) -> int:
        return self.dim

    @classmethod
    def from_hub_config(cls, config: dict) -> "ModelConfig":
        """Read a transformers `config.json`; both spellings of the rotary settings are accepted.

        Raises CheckpointError if it needs something that the export does not support.
        """
        heads = config.get("decoder_num_attention_heads") or config["num_attention_heads"]
        for side in ("encoder", "decoder"):
            for kind in ("attention", "key_value"):
                if (config.get(f"{side}_num_{kind}_heads") or heads) != heads:
                    raise CheckpointError(f"{side}_num_{kind}_heads differs from {heads}: grouped heads are not supported")
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        head_dim = config["hidden_size"] // heads
        rotary_factor = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.9))
        return cls(
            dim=config["hidden_size"],
            heads=heads,
            encoder_layers=config["encoder_num_hidden_layers"],
            decoder_layers=config.get("decoder_num_hidden_layers") or config["num_hidden_layers"],
            mlp_dim=config["intermediate_size"],
            rotary_dim=int(head_dim * rotary_factor),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
            vocabulary=config["vocab_size"],
            max_positions=config["max_position_embeddings"],
            start_token=config.get("decoder_start_token_id", 1),
            end_token=config.get("eos_token_id", 2),
        )


BASE_CONFIG = ModelConfig(
    dim=416,
    heads=8,
    encoder_layers=8,
    decoder_layers=8,
    mlp_dim=1664,
    rotary_dim=32,
    rope_theta=10_000.0,
    vocabulary=32_768,
    max_positions=194,
)
TINY_CONFIG = ModelConfig(
    dim=288,
    heads=8,
    encoder_layers=6,
    decoder_layers=6,
    mlp_dim=1152,
    rotary_dim=32,
    rope_theta=10_000.0,
    vocabulary=32_768,
    max_positions=194,
)


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights and vocabulary, from any source."""

    model: str
    """The requested name."""
    source: str
    """Source of the weights, for people: a directory's name, a hub id, a package and its version."""
    sha256: str
    """Checksum of the weight files, in the order read."""
    config: ModelConfig | StreamingConfig
    tensors: dict[str, np.ndarray]
    """Weights in float32, by their names in transformers' class for the kind of model."""
    pieces: tuple[str, ...]
    """The vocabulary by id: `▁` for a space, `<0xNN>` for one byte; empty for ids that have no text."""
    script: str = scripts.ANY
    """Letters that its engines may write: see scripts."""


@dataclass(frozen=True)
class Package:
    """Weights in an MIT-licensed package on PyPI, int8 per tensor: a substitute for those of the hub."""

    name: str
    version: str
    directory: str
    """Directory of the weights, relative to the folder of the package's module."""
    sha256: str
    config: ModelConfig

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


PACKAGES = {
    DEFAULT_MODEL: Package(
        "moonshine-cpp",
        "0.1.4",
        "models/base-en",
        "da043f662c8c5e3c01340a177b179cc5846b4d6708bad76ea5e309f5c0bf0107",
        BASE_CONFIG,
    ),
    TINY_MODEL: Package(
        "moonshine-voice",
        "0.1.0",
        "assets/tiny-en",
        "bea00e0cd646727a948c3a8bdebeea397d9f9d554cfbf2023b1f81814a59a6f9",
        TINY_CONFIG,
    ),
}
"""Packages by model. The hub's weights are pinned by --revision and --weights-sha256: their checksums are not known here."""


def load(
    model: str,
    say: Callable[[str], None],
    revision: str | None = None,
    sha256: str | None = None,
    script: str | None = None,
    windows: str = EXCLUSIVE,
) -> Checkpoint:
    """Load `model`, a checkpoint directory or a hub id; `say` receives one line if a substitute is used.

    revision: commit, tag or branch of the hub's repository; None: the one in the local cache, else the newest.
    sha256: checksum that the weights must have; None: any.
    script: see scripts; None: the Latin script for models that are known to be English, any for others.
    windows: reading of a streaming model's windows, see streaming_parameters.
    Raises CheckpointError.
    """
    checkpoint = find(model, say, revision, windows)
    if sha256 not in (None, checkpoint.sha256):
        raise CheckpointError(f"the weights of {checkpoint.source} have SHA-256 {checkpoint.sha256}, not {sha256}")
    return dataclasses.replace(checkpoint, script=script or script_of(model))


def script_of(model: str) -> str:
    return scripts.LATIN if any(name in PACKAGES for name in names_of(model)) else scripts.ANY


def find(model: str, say: Callable[[str], None], revision: str | None, windows: str) -> Checkpoint:
    if Path(model).is_dir():
        return load_directory(Path(model), model, f"directory {Path(model).name}", windows)
    for name in names_of(model):
        if found := fetch_from_hub(name, revision, from_cache=True):
            return load_directory(found, model, f"hub {name} at {found.name}", windows)
    reason = why_no_hub()
    for name in names_of(model) if not reason else ():
        if found := fetch_from_hub(name, revision, from_cache=False):
            return load_directory(found, model, f"hub {name} at {found.name}", windows)
    reason = reason or f"the model hub has no {' and no '.join(names_of(model))} for us"
    package = next((PACKAGES[name] for name in names_of(model) if name in PACKAGES), None)
    if package is None or revision:
        raise CheckpointError(f"{model!r} is no directory, the local cache does not have it, and {reason}")
    checkpoint = load_package(model, package)
    say(f"{reason}: using the weights in {checkpoint.source}")
    return checkpoint


def names_of(model: str) -> list[str]:
    """Return the model's names on the hub: its organisation there was renamed, and the hub or the cache may know either name."""
    organisation, _, name = model.rpartition("/")
    return [model, *(f"{other}/{name}" for other in ORGANISATIONS if organisation in ORGANISATIONS and other != organisation)]


def why_no_hub() -> str:
    """Return the reason why the model hub cannot be reached, checked before anything waits for it; empty if it can."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    from huggingface_hub import constants

    hub = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    if urllib.request.getproxies().get(hub.scheme):
        return ""  # the proxy resolves its address
    try:
        socket.create_connection((hub.hostname or "", hub.port or (443 if hub.scheme == "https" else 80)), HUB_SECONDS).close()
    except OSError:
        return "no model hub is within reach"
    return ""


def fetch_from_hub(model: str, revision: str | None, from_cache: bool) -> Path | None:
    """Return the snapshot's directory, whose name is the commit; None if it is not available."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=list(CHECKPOINT_FILES), local_files_only=from_cache)
        )
    except Exception:  # the hub client raises its own, urllib's and httpx's errors
        return None


def load_directory(directory: Path, model: str, source: str, windows: str = EXCLUSIVE) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    missing = [name for name in CHECKPOINT_FILES if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(f"{directory} lacks {', '.join(missing)}; a checkpoint is {', '.join(CHECKPOINT_FILES)}")
    weights = directory / "model.safetensors"
    try:
        config = read_config(json.loads((directory / "config.json").read_text()), windows)
        tensors = load_file(weights)
        pieces = read_tokenizer_json(directory / "tokenizer.json", config.vocabulary)
    except UnsupportedConfig as exc:
        raise CheckpointError(f"{directory} cannot be built: {exc}") from exc
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, SafetensorError) as exc:
        raise CheckpointError(f"{directory} is not a readable Moonshine checkpoint: {exc!r}") from exc
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return Checkpoint(model, source, sha256_of(weights), config, tensors, pieces)


def read_config(config: dict, windows: str) -> ModelConfig | StreamingConfig:
    """Read a transformers `config.json`. Raises CheckpointError or UnsupportedConfig for a model that cannot be built, KeyError
    if a field is missing."""
    if config.get("model_type") == streaming_parameters.MODEL_TYPE:
        return streaming_parameters.read_config(config, windows)
    if config.get("model_type") == "moonshine":
        return ModelConfig.from_hub_config(config)
    raise CheckpointError(
        f"config.json says model_type {config.get('model_type')!r}; only 'moonshine' and 'moonshine_streaming' can be built"
    )


def load_package(model: str, package: Package) -> Checkpoint:
    """Load the weights of a package, dequantised to float32."""
    try:
        directory, version = ort_weights.package_files(package.name, package.directory)
    except ModuleNotFoundError as exc:
        raise CheckpointError(
            f"{model} cannot be had from the local cache or the model hub, and the package with its weights is not installed: "
            f"pip install --no-deps {package.requirement}, or name a checkpoint directory with --model"
        ) from exc
    files = [directory / ort_weights.ENCODER_FILE, directory / ort_weights.DECODER_FILE]
    sha256 = sha256_of(*files)
    if version == package.version and sha256 != package.sha256:
        raise CheckpointError(
            f"the weights in {package.requirement} are damaged: pip install --no-deps --force-reinstall {package.requirement}"
        )
    pieces = ort_weights.read_tokenizer(directory / ort_weights.TOKENIZER_FILE)
    pieces += [""] * (package.config.vocabulary - len(pieces))
    return Checkpoint(
        model=model,
        source=f"package {package.name} {version} (int8 per tensor)",
        sha256=sha256,
        config=package.config,
        tensors=ort_weights.read_weights(*files),
        pieces=tuple(pieces),
    )


def read_tokenizer_json(path: Path, vocabulary: int) -> tuple[str, ...]:
    """Return the pieces of a `tokenizers` file, by id; special tokens have no text."""
    tokenizer = json.loads(path.read_text())
    pieces = [""] * vocabulary
    for piece, token in tokenizer["model"]["vocab"].items():
        pieces[token] = piece
    for added in tokenizer.get("added_tokens", ()):
        if added.get("special") and added["id"] < vocabulary:
            pieces[added["id"]] = ""
    return tuple(pieces)


def sha256_of(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
