"""The engine on TensorRT: three plans, static buffers, one CUDA graph for each shape of encoder and decoder.

Owns all device memory: the slots' caches, one block for requests, one for answers, the encoder's output before it is copied to
the slots, and one block of activations that all execution contexts share, because they run one after the other on one stream.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from runtime import audio, hardware
from runtime.audio import DITHER, DITHER_PERIOD_SAMPLES
from runtime.engine import tensorrt_package
from runtime.engine.cuda_graphs import CapturedShapes
from runtime.engine.device_engine import BiasTable, DeviceEngine
from runtime.engine.manifest import ALIGNER_PLAN, DECODER_PLAN, ENCODER_PLAN, Manifest, Plans
from runtime.engine.shapes import Shape, padded_frames, shapes_within
from runtime.engine.staging import Done, Event, Layout, answer_layout, request_layout
from runtime.engine.tensorrt_package import TensorRt
from runtime.engine.token_biases import TABLE_LAYOUT
from runtime.exceptions import DeviceError, EngineDirectoryError, EngineError, EngineFailed

logger = logging.getLogger(__name__)

CELL_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2}  # of a cached key or value: int8 is for the weights only
FLOAT_BYTES, INT64_BYTES = 4, 8
KERNEL_CACHE = "kernels.cache"  # TensorRT for RTX: kernels compiled for this GPU at the first start
LOWEST_DRIVER_CUDA = (13, 0)  # CUDA version that cuda-python and TensorRT for RTX are installed for


def open_tensorrt(
    directory: Path, manifest: Manifest, max_batch: int, max_seconds: float | None = None, graphs: bool = True
) -> DeviceEngine:
    """Open the engine. max_seconds: longest clip that will be requested; graphs: capture every shape at start-up.

    Raises EngineDirectoryError for plans of another TensorRT or another GPU, DeviceError without a GPU.
    """
    package = tensorrt_package.find(manifest.plans.flavour)
    check_version(directory, manifest.plans, package)
    found = hardware.find_gpu()
    check_device(directory, manifest.plans, found)
    from runtime.engine.cuda_device import CudaDevice  # cuda-python: only where this engine runs

    try:
        cuda = CudaDevice(CELL_BYTES[manifest.precision])
        device = TensorRtDevice(directory, manifest, max_batch, max_seconds, package.module, cuda, graphs)
    except EngineError:
        raise
    except Exception as exc:  # cuda-python's own errors share no base but Exception; out of memory is the usual one
        raise DeviceError(f"{found.name} could not be set up for {directory.name}: {exc}") from exc
    return DeviceEngine(device, manifest, max_batch)


def check_version(directory: Path, plans: Plans, package: TensorRt | None) -> None:
    """Raises EngineDirectoryError unless the plans were built by the TensorRT that is installed."""
    if package is None:
        raise EngineDirectoryError(f"{directory} needs {plans.flavour} {plans.version}, which is not installed")
    if package.version != plans.version:
        raise EngineDirectoryError(
            f"{directory} was built by {plans.flavour} {plans.version}, installed is {package.version}; "
            "build it again with engine_build/build.py"
        )


def check_device(directory: Path, plans: Plans, found: hardware.Gpu | None) -> None:
    """Raises DeviceError without a GPU, EngineDirectoryError for plans of another compute capability."""
    if found is None:
        raise DeviceError(
            "the tensorrt engine needs an NVIDIA GPU, and the driver shows none; ASR_TARGET=onnxruntime serves on the CPU"
        )
    if as_numbers(found.driver_cuda_version) < LOWEST_DRIVER_CUDA:
        raise DeviceError(
            f"the driver serves CUDA {found.driver_cuda_version}; the tensorrt engine needs one for CUDA 13 or newer"
        )
    if found.compute_capability not in plans.compute_capabilities:
        raise EngineDirectoryError(
            f"{directory} runs on compute capability {', '.join(plans.compute_capabilities)}, {found.name} has "
            f"{found.compute_capability}; build it again with engine_build/build.py, or serve with ASR_TARGET=torch"
        )


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


class TensorRtDevice:
    """See runtime.engine.device_engine.Device."""

    def __init__(
        self, directory: Path, manifest: Manifest, max_batch: int, max_seconds: float | None, trt: ModuleType, cuda, graphs: bool
    ):
        """trt: TensorRT's module; cuda: a runtime.engine.cuda_device.CudaDevice."""
        self._trt, self._cuda, self._manifest = trt, cuda, manifest
        self._cell_bytes = CELL_BYTES[manifest.precision]
        self._planes = manifest.decoder_layers * 2
        self.shapes = shapes_within(manifest.plans.profiles, max_batch, max_seconds)
        self.max_samples = samples = max(shape.length for shape in self.shapes if shape.component == "encoder")
        self._slots, self._cache_frames = max(shape.batch for shape in self.shapes), padded_frames(samples)
        self._cache_positions = manifest.plans.cache_positions
        runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.WARNING))
        plans = {"encoder": ENCODER_PLAN, "decoder": DECODER_PLAN, "aligner": ALIGNER_PLAN}
        self._engines = {component: load_plan(trt, runtime, directory / plan) for component, plan in plans.items()}
        self._configs: list = []
        self._kernel_cache, self.kernel_cache_path = None, directory / KERNEL_CACHE
        self._allocate(samples)
        self._contexts = {shape: self._make_context(shape) for shape in self.shapes}
        self._aligner = self._make_aligner()
        self.captured = CapturedShapes(self._run, self._capture if graphs else None)
        self.captured.capture_all(self.shapes)
        if self._kernel_cache is not None:
            save_kernel_cache(self._kernel_cache, self.kernel_cache_path)

    def _allocate(self, samples: int) -> None:
        """Allocate everything once, for the largest shapes; smaller shapes use the beginning."""
        cuda, built, cell = self._cuda, self._manifest, self._cell_bytes
        per_position = self._planes * self._slots * built.heads * built.head_dim * cell
        new = max(shape.length for shape in self.shapes if shape.component == "decoder")
        self._cross = cuda.allocate(per_position * self._cache_frames)
        self._past = cuda.allocate(per_position * self._cache_positions)
        self._slot_frames = cuda.allocate(self._slots * INT64_BYTES)
        self._last_tokens = cuda.allocate(self._slots * INT64_BYTES)
        table = TABLE_LAYOUT.fields  # of lists of biases; the first one has none
        self._biased_tokens, self._biases = cuda.allocate(table["tokens"].bytes), cuda.allocate(table["values"].bytes)
        cuda.zero(self._biased_tokens, table["tokens"].bytes)
        cuda.zero(self._biases, table["values"].bytes)
        self._dither = cuda.allocate(DITHER.nbytes)
        cuda.copy_in(self._dither, DITHER)
        self._audio = cuda.allocate(self._slots * samples * FLOAT_BYTES)
        self._row_frames = cuda.allocate(self._slots * INT64_BYTES)
        self._cross_kv = cuda.allocate(per_position * self._cache_frames)
        self._new_kv = cuda.allocate(per_position * new)
        self._request = cuda.allocate(max(request_layout(shape).bytes for shape in self.shapes))
        answers = (answer_layout(shape).bytes for shape in self.shapes if shape.component == "decoder")
        self._answer = cuda.allocate(max(answers))
        self._to_align = Layout(frames=(np.int64, (1,)), tokens=(np.int64, (1, built.max_positions)))
        share_bytes = built.max_positions * self._cache_frames * FLOAT_BYTES
        self._align_request, self._align_memory = cuda.allocate(self._to_align.bytes), cuda.host_memory(self._to_align.bytes)
        self._share, self._share_memory = cuda.allocate(share_bytes), cuda.host_memory(share_bytes)
        self._activation_bytes = max(engine.device_memory_size_v2 for engine in self._engines.values())
        self._activations = cuda.allocate(self._activation_bytes)

    def _make_context(self, shape: Shape):
        """Return an execution context bound to the shape and its buffers; it does not change afterwards."""
        own = [each for each in self._manifest.plans.profiles if each.component == shape.component]
        context = self._create_context(shape.component, own.index(shape))
        bind(context, *(self._encoder_tensors(shape) if shape.component == "encoder" else self._decoder_tensors(shape)))
        return context

    def _make_aligner(self):
        """Return an execution context for one row with the most tokens possible; every call binds its caches."""
        context = self._create_context("aligner", profile=0)
        inputs = {name: (field.shape, self._align_request + field.offset) for name, field in self._to_align.fields.items()}
        bind(context, inputs, {"share": self._share})
        return context

    def _create_context(self, component: str, profile: int):
        """Return an execution context that uses our activations, with its profile chosen for good."""
        context = self._new_context(self._engines[component])
        if context is None:
            raise EngineFailed(f"TensorRT made no execution context for profile {profile} of the {component}")
        context.set_device_memory(self._activations, self._activation_bytes)
        if not context.set_optimization_profile_async(profile, self._cuda.stream_handle):
            raise EngineFailed(f"TensorRT does not take profile {profile} of the {component}")
        return context

    def _new_context(self, engine):
        """Return an execution context whose activations we allocate, and whose kernels do not change later.

        By default, TensorRT for RTX compiles the kernels of a shape in the background and runs others until they are ready: a
        graph captured meanwhile would keep the others for ever.
        """
        allocation = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
            return engine.create_execution_context(allocation)
        config = engine.create_runtime_config()
        self._configs.append(config)  # no document says that the context keeps it
        config.set_execution_context_allocation_strategy(allocation)
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._kernel_cache is None:
            self._kernel_cache = load_kernel_cache(config, self.kernel_cache_path)
        if not config.set_runtime_cache(self._kernel_cache):
            logger.warning("TensorRT takes no cache of compiled kernels; every start will take its time")
        return engine.create_execution_context(config)

    def _encoder_tensors(self, shape: Shape) -> tuple[dict, dict]:
        inputs = {
            "audio": ((shape.batch, shape.length), self._audio),
            "lengths": ((shape.batch,), self._request_address(shape, "lengths")),
        }
        return inputs, {"cross_kv": self._cross_kv, "frames": self._row_frames}

    def _decoder_tensors(self, shape: Shape) -> tuple[dict, dict]:
        """Return inputs and outputs. Slots are rows: a batch reads the first slots in place."""
        built, batch = self._manifest, shape.batch
        inputs = {
            "tokens": ((batch, shape.length), self._request_address(shape, "tokens")),
            "past_lengths": ((batch,), self._request_address(shape, "past_lengths")),
            "end_bias": ((batch,), self._request_address(shape, "end_bias")),
            "frames": ((batch,), self._slot_frames),
            "bias_lists": ((batch, shape.length), self._request_address(shape, "bias_lists")),
            "biased_tokens": (TABLE_LAYOUT.fields["tokens"].shape, self._biased_tokens),
            "biases": (TABLE_LAYOUT.fields["values"].shape, self._biases),
        }
        inputs |= self._cache_tensors("past", self._past, self._cache_positions, range(built.decoder_layers), batch)
        inputs |= self._cache_tensors("cross", self._cross, self._cache_frames, range(built.decoder_layers), batch)
        answer = answer_layout(shape).fields
        outputs = {
            "next_tokens": self._answer + answer["tokens"].offset,
            "log_probs": self._answer + answer["log_probs"].offset,
            "new_kv": self._new_kv,
        }
        return inputs, outputs

    def _cache_tensors(self, cache: str, address: int, length: int, layers: range, batch: int, first_slot: int = 0) -> dict:
        """Return the keys and values of some layers, for `batch` slots from `first_slot` on."""
        built = self._manifest
        slot_bytes = built.heads * length * built.head_dim * self._cell_bytes
        return {
            f"{cache}_{name}.{layer}": (
                (batch, built.heads, length, built.head_dim),
                address + ((layer * 2 + kind) * self._slots + first_slot) * slot_bytes,
            )
            for layer in layers
            for kind, name in enumerate(("key", "value"))
        }

    def _request_address(self, shape: Shape, name: str) -> int:
        return self._request + request_layout(shape).fields[name].offset

    def host_memory(self, size: int) -> np.ndarray:
        return self._cuda.host_memory(size)

    def encode(self, shape: Shape, request: np.ndarray) -> Event:
        self._cuda.enter()
        self._cuda.copy_in(self._request, request)
        self.captured.run(shape)
        return self._cuda.record()

    def decode(self, shape: Shape, request: np.ndarray, answer: np.ndarray, lists: BiasTable) -> Event:
        self._cuda.enter()
        self._cuda.copy_in(self._request, request)
        tokens, values = lists
        if len(tokens):
            self._cuda.copy_in(self._biased_tokens + tokens[0].nbytes, tokens)
            self._cuda.copy_in(self._biases + values[0].nbytes, values)
        self.captured.run(shape)
        self._cuda.copy_out(answer, self._answer)
        return self._cuda.record()

    def clear(self, slot: int) -> None:
        self._cuda.enter()
        for cache, length in ((self._cross, self._cache_frames), (self._past, self._cache_positions)):
            slot_bytes = self._manifest.heads * length * self._manifest.head_dim * self._cell_bytes
            for plane in range(self._planes):
                self._cuda.zero(cache + (plane * self._slots + slot) * slot_bytes, slot_bytes)

    def align(self, slots: Sequence[int], frames: Sequence[int], tokens: np.ndarray) -> tuple[Event, np.ndarray]:
        """Align one row after the other, without a graph: the plan has one profile, for one row."""
        return Done(), np.stack(list(map(self._align, slots, frames, tokens)))

    def _align(self, slot: int, frames: int, tokens: np.ndarray) -> np.ndarray:
        """Align one row, and wait for the answer."""
        built, cuda = self._manifest, self._cuda
        cuda.enter()
        request = self._to_align.views(self._align_memory)
        request["frames"][0], request["tokens"][0] = frames, built.start_token
        request["tokens"][0, : len(tokens)] = tokens
        cuda.copy_in(self._align_request, self._align_memory)
        inputs = self._cache_tensors("cross", self._cross, self._cache_frames, range(built.aligner_layers), 1, slot)
        del inputs[f"cross_value.{built.aligner_layers - 1}"]  # only the attention of the last layer is needed
        bind(self._aligner, inputs, {})
        if not self._aligner.execute_async_v3(cuda.stream_handle):
            raise EngineFailed("TensorRT failed on the aligner")
        cuda.copy_out(self._share_memory, self._share)
        cuda.record().sync()
        return self._share_memory.view(np.float32).reshape(built.max_positions, -1)[: len(tokens)].copy()

    def _run(self, shape: Shape) -> None:
        self._run_encoder(shape) if shape.component == "encoder" else self._run_decoder(shape)

    def _capture(self, shape: Shape) -> Callable[[], None] | None:
        self._run(shape)  # TensorRT prepares a context's shape in its first run
        self._cuda.stream.sync()
        context = self._contexts[shape]
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._cuda.stream_handle):
            logger.warning("TensorRT cannot be captured for %s; it will run uncaptured", shape)
            return None
        return self._cuda.capture(lambda: self._run(shape))

    def _run_encoder(self, shape: Shape) -> None:
        built, frames = self._manifest, audio.count_frames(shape.length)

        def given(name: str) -> int:
            return self._request_address(shape, name)

        self._cuda.launch(
            "hear",
            shape.length,
            (shape.batch, 1),
            (given("pcm"), given("lengths"), given("positions"), self._dither, self._audio),
            (DITHER_PERIOD_SAMPLES, shape.length),
        )
        self._execute(shape)
        self._cuda.launch(
            "keep_cross",
            frames * built.head_dim,
            (built.heads, self._planes * shape.batch),
            (self._cross_kv, given("slots"), self._row_frames, self._cross, self._slot_frames),
            (shape.batch, built.heads, frames, built.head_dim, self._slots, self._cache_frames),
        )

    def _run_decoder(self, shape: Shape) -> None:
        built, batch, new = self._manifest, shape.batch, shape.length

        def given(name: str) -> int:
            return self._request_address(shape, name)

        self._cuda.launch("continue_rows", batch, (1, 1), (given("tokens"), self._last_tokens), (batch, new))
        self._execute(shape)
        next_tokens = self._answer + answer_layout(shape).fields["tokens"].offset
        self._cuda.launch(
            "keep_past",
            new * built.head_dim,
            (built.heads, self._planes * batch),
            (self._new_kv, given("past_lengths"), given("counts"), next_tokens, self._past, self._last_tokens),
            (batch, built.heads, new, built.head_dim, self._slots, self._cache_positions),
        )

    def _execute(self, shape: Shape) -> None:
        if not self._contexts[shape].execute_async_v3(self._cuda.stream_handle):
            raise EngineFailed(f"TensorRT failed on {shape}")

    def close(self) -> None:
        self._cuda.enter()
        self._cuda.stream.sync()  # a step may be in progress
        self.captured.forget()  # graphs refer to contexts
        self._contexts.clear()
        self._configs.clear()
        del self._aligner
        self._engines.clear()
        self._cuda.close()


def bind(context, inputs: dict[str, tuple[tuple[int, ...], int]], outputs: dict[str, int]) -> None:
    """Give a context the shapes and addresses of its inputs, and the addresses of its outputs. Raises EngineFailed."""
    for name, (dims, address) in inputs.items():
        if not (context.set_input_shape(name, dims) and context.set_tensor_address(name, address)):
            raise EngineFailed(f"TensorRT does not take {name} as {dims}")
    for name, address in outputs.items():
        if not context.set_tensor_address(name, address):
            raise EngineFailed(f"TensorRT does not take an address for {name}")


def load_plan(trt: ModuleType, runtime, path: Path):
    plan = path.read_bytes()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineDirectoryError(
            f"TensorRT cannot read {path} on this GPU ({why_refused(trt, runtime, plan)}); "
            "build it again with engine_build/build.py, or serve with ASR_TARGET=torch"
        )
    return engine


def why_refused(trt: ModuleType, runtime, plan: bytes) -> str:
    """Return TensorRT's reason for not reading a plan, as the names of its own diagnostics."""
    if not hasattr(runtime, "get_engine_validity"):  # the data-centre package
        return "no reason given"
    validity, found = runtime.get_engine_validity(plan)
    kinds = trt.EngineInvalidityDiagnostics
    names = [name for name in dir(kinds) if name.isupper() and int(getattr(kinds, name)) & int(found)]
    return " ".join([validity.name, *names])


def load_kernel_cache(config, path: Path):
    """Return a cache with the kernels that an earlier start compiled; an empty one if the file cannot be read."""
    cache = config.create_runtime_cache()
    if path.is_file() and not cache.deserialize(path.read_bytes()):
        logger.warning("%s cannot be read; its kernels are compiled again", path)
        cache = config.create_runtime_cache()
    return cache


def save_kernel_cache(cache, path: Path) -> None:
    """Save the compiled kernels. A failure here only makes the next start slower. The file is written under another name first,
    because engine processes share it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        if (kernels := cache.serialize()) is not None:
            unfinished.write_bytes(bytes(kernels))
            unfinished.replace(path)
    except Exception as exc:  # a read-only directory of engines, or an error of TensorRT
        logger.warning("compiled kernels could not be kept: %s", exc)
        with contextlib.suppress(OSError):
            unfinished.unlink()
