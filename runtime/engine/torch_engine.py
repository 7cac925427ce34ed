"""The engine on PyTorch: the plain reference on a GPU, with CUDA graphs, and the fall-back where TensorRT is not installed.

Runs the exported programs of an engine directory. It works on a CPU too, without graphs and without overlap, but only for tests:
ONNX Runtime is faster there.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from runtime import audio, hardware
from runtime.audio import DITHER, DITHER_PERIOD_SAMPLES
from runtime.engine.cuda_graphs import CapturedShapes
from runtime.engine.device_engine import BiasTable, DeviceEngine
from runtime.engine.device_stream_engine import DeviceStreamEngine
from runtime.engine.manifest import ALIGNER_PROGRAM, DECODER_PROGRAM, ENCODER_PROGRAM, PACKED_ENCODER_PROGRAM, Manifest
from runtime.engine.protocol import CONTINUED, MAX_BIAS_LISTS, MAX_BIASED_TOKENS, Engine
from runtime.engine.shapes import Shape, packed_shapes, shapes_up_to, shapes_within, stream_shapes, streaming_frames
from runtime.engine.slot_groups import SlotGroups
from runtime.engine.staging import Done, Event, Layout, answer_layout, request_layout
from runtime.engine.torch_programs import CompiledProgram, can_compile, compiling, load_program
from runtime.exceptions import DeviceError, EngineFailed

WARM_UP_RUNS = 2  # before a capture: libraries choose and load their kernels in the first runs

LEAST_IN_A_GROUP = 32  # slots: a pass of fewer rows takes as long
PACKED_INPUTS = ("starts", "lengths", "positions", "offsets", "gains")
Changing = tuple[tuple[int, ...], ...]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def open_torch(
    directory: Path,
    manifest: Manifest,
    max_batch: int,
    max_seconds: float | None = None,
    device: str | None = None,
    graphs: bool = True,
    compiles: bool | None = None,
    packs: bool | None = None,
    groups: int | None = None,
) -> Engine:
    """Open the engine on a device, "cuda" (the default) or "cpu".

    graphs: capture CUDA graphs at start-up. compiles: have torch fuse kernels for the GPU, by default where it can. packs: encode
    rows one after the other in one array, by default on a GPU in half precision, which has flash attention. groups: number of
    groups of slots that work in parallel, each on its own CUDA stream; by default two on a GPU, if each is large enough and no
    slot is left over.
    Raises DeviceError without a GPU, EngineDirectoryError for programs that torch cannot load.
    """
    device = device or os.environ.get(hardware.TORCH_DEVICE_VARIABLE, "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("the torch engine needs an NVIDIA GPU, and torch sees none; ASR_TARGET=onnxruntime serves on the CPU")
    compiles = device == "cuda" and can_compile() if compiles is None else compiles
    is_half = device == "cuda" and manifest.precision != "fp32"
    packs = is_half and not manifest.stream_encoder if packs is None else packs
    may_divide = device == "cuda" and max_batch >= 2 * LEAST_IN_A_GROUP and max_batch % 2 == 0
    groups = groups or (2 if may_divide and not manifest.stream_encoder else 1)
    size = max_batch // groups
    programs = TorchPrograms(directory, manifest, torch.device(device), size, max_seconds, compiles, packs)
    with compiling(directory) if compiles else contextlib.nullcontext():
        devices = [TorchDevice(programs, manifest, size, graphs) for _ in range(groups)]
    kind = DeviceStreamEngine if manifest.stream_encoder else DeviceEngine
    engines = [kind(each, manifest, size) for each in devices]
    return SlotGroups(engines) if groups > 1 else engines[0]


class TorchPrograms:
    """The model's programs on their device, and the shapes they run in."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        device: torch.device,
        max_batch: int,
        max_seconds: float | None,
        compiles: bool,
        packs: bool,
    ):
        self.device = device
        self.encoder = load_program(directory / (PACKED_ENCODER_PROGRAM if packs else ENCODER_PROGRAM), device)
        self.decoder = load_program(directory / DECODER_PROGRAM, device)
        self.aligner = load_program(directory / ALIGNER_PROGRAM, device)
        self.shapes = shapes_within(shapes_up_to(max_batch, manifest.max_samples, manifest.max_positions), max_batch, max_seconds)
        self.max_samples = max(shape.length for shape in self.shapes if shape.component == "encoder")
        self.max_frames, self.state_size = audio.count_frames(self.max_samples), 0
        decoder = [shape for shape in self.shapes if shape.component == "decoder"]
        if manifest.stream_encoder:
            self.shapes = decoder + stream_shapes(max_batch)
            self.max_frames = streaming_frames(self.max_samples)
            self.state_size = manifest.stream_encoder.state_size
        elif packs:
            self.shapes = decoder + packed_shapes(max_batch, self.max_samples)
        if compiles:
            # torch compiles a dimension of one separately, and one row takes as long as two.
            self.shapes = [shape for shape in self.shapes if shape.batch > 1 or max_batch == 1]
            changing: Changing = ((0,), *[()] * (1 + len(PACKED_INPUTS))) if packs else ((0, 1), (0,))
            if manifest.stream_encoder:
                changing = ((0, 1), (0,), (0,), (0,))
            self.encoder = CompiledProgram(self.encoder, changing)
            of_rows: Changing = ((0, 1), (0,), (0,), (0,), (0, 1), (), ())
            self.decoder = CompiledProgram(self.decoder, of_rows + ((0,),) * 4 * manifest.decoder_layers)


class TorchDevice:
    """See runtime.engine.device_engine.Device."""

    def __init__(self, programs: TorchPrograms, manifest: Manifest, max_batch: int, graphs: bool):
        """graphs: capture CUDA graphs now."""
        self._device = device = programs.device
        self._layers, self._aligner_layers = manifest.decoder_layers, manifest.aligner_layers
        self._on_gpu = device.type == "cuda"
        self._encoder, self._decoder, self._aligner = programs.encoder, programs.decoder, programs.aligner
        self.shapes, self.max_samples = programs.shapes, programs.max_samples
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self._provisional = manifest.provisional_frames
        self._allocate(manifest, max_batch, programs)
        if self._on_gpu:
            self._stream.wait_stream(torch.cuda.current_stream(device))  # the stream that allocated and zeroed everything
            torch.backends.cudnn.allow_tf32 = False  # float32 is the reference
            # Sums in half precision are split by the batch's size, so a batch would differ from its rows.
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
            self._graph_pool = torch.cuda.graph_pool_handle()  # one for all its graphs: they never run at the same time
        self.captured = CapturedShapes(self._run, self._capture if self._on_gpu and graphs else None)
        with torch.inference_mode():
            self.captured.capture_all(self.shapes)

    def _allocate(self, manifest: Manifest, max_batch: int, programs: TorchPrograms) -> None:
        """Allocate one more slot and one more position than needed: values that belong to no row are written there."""
        dtype, device = DTYPES[manifest.precision], self._device
        rows = (self._layers, 2, max_batch + 1, manifest.heads)
        self._state = torch.zeros(max_batch + 1, programs.state_size, dtype=dtype, device=device)  # of streams
        self._cross = torch.zeros(*rows, programs.max_frames, manifest.head_dim, dtype=dtype, device=device)
        self._past = torch.zeros(*rows, manifest.max_positions + 1, manifest.head_dim, dtype=dtype, device=device)
        self._frames = torch.zeros(max_batch + 1, dtype=torch.int64, device=device)
        self._last_tokens = torch.zeros(max_batch, dtype=torch.int64, device=device)
        table = (MAX_BIAS_LISTS, MAX_BIASED_TOKENS)  # of lists of biases; the first one has none
        self._biased_tokens = torch.zeros(*table, dtype=torch.int64, device=device)
        self._biases = torch.zeros(*table, dtype=torch.float32, device=device)
        self._dither = torch.from_numpy(DITHER).to(device)
        self._request = torch.zeros(max(request_layout(each).bytes for each in self.shapes), dtype=torch.uint8, device=device)
        answers = (answer_layout(each).bytes for each in self.shapes if each.component == "decoder")
        self._answer = torch.zeros(max(answers), dtype=torch.uint8, device=device)

    def host_memory(self, size: int) -> np.ndarray:
        return torch.zeros(size, dtype=torch.uint8, pin_memory=self._on_gpu).numpy()

    def encode(self, shape: Shape, request: np.ndarray) -> Event:
        return self._serve(shape, request, None)

    def decode(self, shape: Shape, request: np.ndarray, answer: np.ndarray, lists: BiasTable) -> Event:
        tokens, values = map(torch.from_numpy, lists)
        if len(tokens):
            with torch_failing(), torch.inference_mode(), torch.cuda.stream(self._stream):
                self._biased_tokens[1 : 1 + len(tokens)].copy_(tokens, non_blocking=True)
                self._biases[1 : 1 + len(tokens)].copy_(values, non_blocking=True)
        return self._serve(shape, request, answer)

    def align(self, slots: Sequence[int], frames: Sequence[int], tokens: np.ndarray) -> tuple[Event, np.ndarray]:
        """Align without a graph: a row is aligned once per segment at most."""
        with torch_failing(), torch.inference_mode(), torch.cuda.stream(self._stream):
            rows, valid, fed = map(self._sent, (np.array(slots), np.array(frames), tokens))
            cached = self._cross[: self._aligner_layers].index_select(2, rows)
            caches = [cached[layer, kind] for layer in range(self._aligner_layers) for kind in range(2)]
            share = cast(Tensor, self._aligner(fed, valid, *caches[:-1]))
            answer = torch.empty(share.shape, dtype=share.dtype, pin_memory=self._on_gpu)
            answer.copy_(share, non_blocking=True)
            return self._event(), answer.numpy()

    def clear(self, slot: int) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for cache in (self._cross, self._past):
                cache[:, :, slot].zero_()
            self._state[slot].zero_()

    def _serve(self, shape: Shape, request: np.ndarray, answer: np.ndarray | None) -> Event:
        with torch_failing(), torch.inference_mode(), torch.cuda.stream(self._stream):
            self._request[: len(request)].copy_(torch.from_numpy(request), non_blocking=True)
            self.captured.run(shape)
            if answer is not None:
                torch.from_numpy(answer).copy_(self._answer[: len(answer)], non_blocking=True)
            return self._event()

    def _sent(self, values: np.ndarray) -> Tensor:
        """Copy to the device, on its own stream: from page-locked memory, the device waits for the copy and the host does not."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._on_gpu else tensor

    def _event(self) -> Event:
        return TorchEvent(self._stream) if self._on_gpu else Done()

    def _run(self, shape: Shape) -> None:
        self._decode(shape) if shape.component == "decoder" else self._encode(shape)

    def _capture(self, shape: Shape) -> Callable[[], None]:
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                self._run(shape)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: memory that another library's thread allocates meanwhile is no part of the graph, and no error.
        with torch.cuda.graph(graph, pool=self._graph_pool, stream=self._stream, capture_error_mode="thread_local"):
            self._run(shape)
        return graph.replay

    def _encode(self, shape: Shape) -> None:
        request = views(request_layout(shape), self._request)
        spare = len(self._frames) - 1
        slots = torch.where(request["slots"] < 0, spare, request["slots"])
        if shape.component == "stream encoder":
            frames = self._encode_streams(request, slots, spare)
        elif shape.component == "packed encoder":
            frames = self._encode_packed(request, slots, spare)
        else:
            frames = self._encode_padded(request, slots, shape.length)
        self._frames.index_copy_(0, slots, frames)

    def _encode_packed(self, request: dict[str, Tensor], slots: Tensor, spare: int) -> Tensor:
        """Returns the frames of each row."""
        cross, frames, row, offset = self._encoder(request["pcm"], self._dither, *(request[name] for name in PACKED_INPUTS))
        valid = offset < frames[row]
        places = (torch.where(valid, slots[row], spare), torch.where(valid, offset, 0))
        self._cross.permute(2, 4, 0, 1, 3, 5).index_put_(places, cross)
        return frames

    def _encode_streams(self, request: dict[str, Tensor], slots: Tensor, spare: int) -> Tensor:
        """Returns the frames of each row."""
        counts, before = request["counts"], request["before"]
        cross, state = self._encoder(request["audio"], counts, before, self._state.index_select(0, slots))
        self._state.index_copy_(0, slots, state)
        frames = before[:, None] - self._provisional + torch.arange(cross.shape[4], device=self._device)
        valid = (frames >= 0) & (frames < (before + counts)[:, None])
        places = (torch.where(valid, slots[:, None], spare), torch.where(valid, frames, 0))
        self._cross.permute(2, 4, 0, 1, 3, 5).index_put_(places, cross.permute(2, 4, 0, 1, 3, 5))
        return before + counts

    def _encode_padded(self, request: dict[str, Tensor], slots: Tensor, samples: int) -> Tensor:
        """Returns the frames of each row."""
        offsets = torch.arange(samples, device=self._device)
        dither = self._dither[(request["positions"][:, None] + offsets) % DITHER_PERIOD_SAMPLES]
        audio = dither + request["pcm"].float() * (1 / 32_768)
        audio = torch.where(offsets < request["lengths"][:, None], audio, 0.0)
        cross_kv, frames = self._encoder(audio, request["lengths"])
        self._cross[:, :, :, :, : cross_kv.shape[4]].index_copy_(2, slots, cross_kv)
        return frames

    def _decode(self, shape: Shape) -> None:
        request, batch = views(request_layout(shape), self._request), shape.batch
        last, counts, past_lengths = self._last_tokens[:batch], request["counts"], request["past_lengths"]
        tokens = torch.where(request["tokens"] == CONTINUED, last[:, None], request["tokens"])
        caches = [
            cache[layer, kind, :batch, :, :positions]
            for layer in range(self._layers)
            for cache, positions in ((self._past, self._past.shape[4] - 1), (self._cross, self._cross.shape[4]))
            for kind in range(2)
        ]
        biases = request["bias_lists"], self._biased_tokens, self._biases
        frames = self._frames[:batch]
        chosen, log_probs, new_kv = self._decoder(tokens, past_lengths, frames, request["end_bias"], *biases, *caches)
        offsets = torch.arange(shape.length, device=self._device)
        nowhere = self._past.shape[4] - 1
        places = torch.where(offsets < counts[:, None], past_lengths[:, None] + offsets, nowhere)
        self._past[:, :, :batch].scatter_(4, places[None, None, :, None, :, None].expand_as(new_kv), new_kv)
        at_end = chosen.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0]
        last.copy_(torch.where(counts > 0, at_end, last))
        answer = views(answer_layout(shape), self._answer)
        answer["tokens"].copy_(chosen)
        answer["log_probs"].copy_(log_probs)

    def close(self) -> None:
        if self._on_gpu:
            self._stream.synchronize()
        del self.captured, self._encoder, self._decoder, self._aligner, self._cross, self._past


class TorchEvent:
    """See runtime.engine.staging.Event."""

    def __init__(self, stream: torch.cuda.Stream):
        self._event = torch.cuda.Event()
        self._event.record(stream)

    @property
    def is_done(self) -> bool:
        with torch_failing():
            return self._event.query()

    def sync(self) -> None:
        with torch_failing():
            self._event.synchronize()


@contextlib.contextmanager
def torch_failing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        raise EngineFailed(f"torch failed: {exc}") from exc


def views(layout: Layout, memory: Tensor) -> dict[str, Tensor]:
    """Return the arrays of a block that begins at the start of `memory` (uint8)."""
    return {
        name: memory[field.offset : field.offset + field.bytes].view(getattr(torch, field.dtype.name)).view(field.shape)
        for name, field in layout.fields.items()
    }
