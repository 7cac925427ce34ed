"""The manifest of an engine directory: its contents, its source, and the model, target and precision it was built for."""

import hashlib
import os
import shlex
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.audio import SAMPLE_RATE
from runtime.engine.shapes import Shape
from runtime.exceptions import EngineDirectoryError

FILE_NAME = "manifest.json"
FORMAT = 6  # increased when older engines can no longer be read

ANY_BATCH = 1024  # for targets that are not compiled for one batch size
ONNXRUNTIME = "onnxruntime"
TENSORRT = "tensorrt"
TORCH = "torch"
NATIVE = "native"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
ALIGNER_FILE = "aligner.onnx"
ENCODER_PLAN = "encoder.plan"
DECODER_PLAN = "decoder.plan"
ALIGNER_PLAN = "aligner.plan"
ENCODER_PROGRAM = "encoder.pt2"
PACKED_ENCODER_PROGRAM = "packed_encoder.pt2"
DECODER_PROGRAM = "decoder.pt2"
ALIGNER_PROGRAM = "aligner.pt2"
NATIVE_WEIGHTS = "weights.npz"
COMPILED_LIBRARIES = Path(__file__).resolve().parents[2] / "engine_build" / "native" / "compiled"
"""Folder of the native engine's libraries in a wheel or an image, with one folder for each type that slots keep."""
NATIVE_FLAGS = ("avx2", "fma", "f16c")
"""Instructions that every library of the native target uses, as /proc/cpuinfo names them."""


class EngineFile(BaseModel):
    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class Plans(BaseModel):
    """Versions and GPU that TensorRT plans need."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    flavour: str
    """tensorrt or tensorrt-rtx."""
    version: str
    compute_capabilities: tuple[str, ...]
    """Compute capabilities of the GPUs that the plans run on, such as 9.0."""
    cache_positions: int
    """Positions of the self-attention caches in the decoder's profiles."""
    profiles: tuple[Shape, ...]
    """Shapes of the profiles, in the order of their index within their component's plan."""


class StreamEncoder(BaseModel):
    """Shape of a streaming model's encoder."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    dim: int
    heads: int
    head_dim: int
    windows: tuple[tuple[int, int], ...]
    """Numbers of frames before and after a frame that it attends to, by layer."""
    state_size: int
    """Count of the numbers that a stream keeps between two steps of an exported encoder."""


class Manifest(BaseModel):
    """manifest.json: written by engine_build; runtime compares it with the requested engine."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    format: int = FORMAT
    model: str
    """Hub id or directory name the engine was built for."""
    weights_source: str
    weights_sha256: str
    script: str = "any"
    """Letters that the model may write: those of the latin script, or any."""
    target: str
    """onnxruntime, native, tensorrt or torch."""
    precision: str
    """Precision that the engine computes in, which may differ from the requested one."""
    builder_sha256: str
    """Checksum of the builder's source; an engine from other source is built again."""
    max_batch: int
    max_seconds: float
    sample_rate: int = SAMPLE_RATE
    dim: int
    heads: int
    head_dim: int
    encoder_layers: int
    decoder_layers: int
    aligner_layers: int
    """Decoder layers that are in the aligner."""
    vocabulary: int
    max_positions: int
    start_token: int
    end_token: int
    token_scale: float = 1.0
    """See Limits.token_scale."""
    known_tokens: tuple[int, ...] = ()
    """Tokens of float32 for the clip that every engine is tested on (runtime/engine/known_clip.py); empty means no test."""
    live_streams: int = 0
    """Number of live streams that the machine which built it can serve (runtime/scheduler/capacity.py); 0 means not measured."""
    files: dict[str, EngineFile]
    versions: dict[str, str]
    """Versions of the packages that took part in the build."""
    built_at: str
    """UTC, ISO 8601."""
    needs_exact_int8_sums: bool = False
    """True for an int8 engine with weights of 8 bits: it runs only if hardware.sums_int8_products_exactly()."""
    libraries: dict[str, tuple[str, ...]] = {}
    """Libraries of the native target, the fastest first, and the instructions that each of them uses."""
    stream_encoder: StreamEncoder | None = None
    """Encoder of a streaming model; a model of clips has none."""
    plans: Plans | None = None
    """Plans of the tensorrt target."""

    @property
    def provisional_frames(self) -> int:
        """Frames at the end of a streaming model's output that later audio changes."""
        return sum(future for _, future in self.stream_encoder.windows) if self.stream_encoder else 0

    @property
    def max_samples(self) -> int:
        return int(self.max_seconds * self.sample_rate)

    def save(self, directory: Path) -> None:
        (directory / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n")


def directory_name(model: str, target: str, precision: str) -> str:
    """Return the name of the engine's own directory in the engines directory, such as moonshine-base-onnxruntime-fp32."""
    return f"{Path(model).name.lower()}-{target}-{precision}"


def default_engines() -> Path:
    """Return the default directory of engines: `engines` in a checkout, else one in the user's cache directory."""
    return Path("engines") if in_checkout() else user_cache() / "engines"


def user_cache() -> Path:
    """Return this program's directory in the user's cache."""
    cache = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / cache) / "moonshine-asr"


def in_checkout() -> bool:
    """True if the current directory is a checkout of the project."""
    return Path("engine_build/build.py").is_file()


def build_command(model: str, target: str, precision: str, max_batch: int, out: Path) -> str:
    options = {"model": model, "target": target, "precision": precision, "max-batch": str(max_batch), "out": str(out)}
    program = "python engine_build/build.py" if in_checkout() else "moonshine-asr build"
    return f"{program} " + " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())


def describe_file(path: Path) -> EngineFile:
    data = path.read_bytes()
    return EngineFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def load(directory: Path, model: str, target: str, precision: str, max_batch: int) -> Manifest:
    """Read an engine directory and check it against the requested engine, every file's hash included.

    Raises EngineDirectoryError with one line that ends with the command to run.
    """
    advice = f"run: {build_command(model, target, precision, max_batch, directory.parent)}"
    path = directory / FILE_NAME
    if not path.is_file():
        raise EngineDirectoryError(f"no engine in {directory}; {advice}")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as exc:
        raise EngineDirectoryError(f"{path} is damaged ({exc.error_count()} fields do not fit); {advice}") from exc
    if not manifest.files:
        raise EngineDirectoryError(f"{path} is damaged (it names no files); {advice}")
    if manifest.format != FORMAT:
        raise EngineDirectoryError(f"{directory} has format {manifest.format}, this version reads {FORMAT}; {advice}")
    for name, built, asked in (
        ("model", manifest.model, model),
        ("target", manifest.target, target),
        ("precision", manifest.precision, precision),
    ):
        if built != asked:
            raise EngineDirectoryError(f"{directory} was built for {name} {built!r}, not {asked!r}; {advice}")
    if manifest.max_batch < max_batch:
        raise EngineDirectoryError(f"{directory} was built for batches up to {manifest.max_batch}, not {max_batch}; {advice}")
    for name, expected in manifest.files.items():
        if not (directory / name).is_file() or describe_file(directory / name) != expected:
            raise EngineDirectoryError(f"{directory / name} is missing or damaged; {advice}")
    return manifest
