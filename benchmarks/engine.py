"""Measures the speed of an engine by batch and by length of audio, beside the same weights in transformers and beside the floor.

Rows are the evaluation clips, joined and cut to length: real speech, with its real number of tokens.
"""

import contextlib
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.harness.accuracy import evaluation_clips
from benchmarks.model_size import ModelSize
from moonshine_client import audio_file
from runtime import hardware
from runtime.audio import SAMPLE_RATE, Clip, count_frames
from runtime.engine import manifest
from runtime.engine.manifest import TENSORRT, TORCH, Manifest
from runtime.engine.protocol import CONTINUED, Engine, Row
from runtime.scheduler.requests import TOKENS_PER_SECOND
from server.stream.confidence import END_BIAS

VERIFIED_TOKENS = 32  # tokens of a draft in one pass
REPEATS, PEER_REPEATS = 5, 3
PEER = "transformers generate"
PEER_BATCHES = (1, 8, 32)  # it is slow, and these are enough
MODEL = "UsefulSensors/moonshine-base"


@dataclass
class Measurement:
    """Figures of one engine on one batch of one length. Times are medians, in milliseconds."""

    engine: str
    batch: int
    audio_seconds: float
    encoder_ms: float
    verification_ms: float | None
    """Time of one pass over a draft of VERIFIED_TOKENS tokens for every row."""
    step_ms: float
    """Time of one more token for every row; steps follow each other without the host reading in between."""
    tokens: int
    """Tokens of one row's greedy transcript, the end token included."""
    transcription_ms: float
    """Time of the encoder and one step for each token, without a draft; for all rows, with results read at every step."""
    encoder_floor_ms: float = 0.0
    step_floor_ms: float = 0.0
    bytes_in: int = 0
    """Bytes copied from host to device for one transcription; bytes_out: copied back."""
    bytes_out: int = 0

    @property
    def tokens_per_second(self) -> float:
        return self.batch * 1000 / self.step_ms

    @property
    def rtfx(self) -> float:
        return self.batch * self.audio_seconds * 1000 / self.transcription_ms


@dataclass
class EngineRun:
    """All measurements of one engine, and the cost of opening it."""

    engine: str
    measurements: list[Measurement] = field(default_factory=list)
    open_seconds: float = 0.0
    capture_seconds: float = 0.0
    memory_mib: float | None = None
    """Memory on the GPU, with everything allocated; None on a CPU."""
    uncaptured_runs: int = 0
    failure: str | None = None
    """Reason why there are no more measurements."""


def speech(seconds: float, batch: int) -> list[Clip]:
    """Return `batch` different clips of speech of this length."""
    whole = np.concatenate([audio_file.load(clip.path) for clip in evaluation_clips()])
    length = int(seconds * SAMPLE_RATE)
    step = max(1, (len(whole) - length) // max(1, batch - 1)) if batch > 1 else 0
    return [Clip(whole[index * step : index * step + length]) for index in range(batch)]


def median_ms(work: Callable[[], object], repeats: int = REPEATS) -> float:
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def measure(engine: Engine, name: str, batch: int, seconds: float) -> Measurement:
    """Measure one batch of one length. Frees its slots again."""
    clips, slots = speech(seconds, batch), list(range(batch))
    draft = (engine.limits.start_token, *range(500, 500 + VERIFIED_TOKENS - 1))

    def encode() -> None:
        engine.encode(slots, clips)
        engine.wait()

    encoder_ms = median_ms(encode)
    verification_ms = median_ms(lambda: engine.decode([Row(slot, draft, 0, END_BIAS) for slot in slots]))
    steps = 20

    def step_on() -> None:
        pending = [engine.launch([Row(slot, (draft[0],), 0, END_BIAS) for slot in slots])]
        for position in range(1, steps):
            pending.append(engine.launch([Row(slot, (CONTINUED,), position) for slot in slots]))
        pending[-1].result()

    step_ms = median_ms(step_on) / steps
    before = (engine.bytes_in, engine.bytes_out)
    began = time.perf_counter()
    engine.encode(slots, clips)
    tokens = decode_greedily(engine, batch, seconds)
    transcription_ms = (time.perf_counter() - began) * 1000
    for slot in slots:
        engine.free(slot)
    return Measurement(
        name,
        batch,
        seconds,
        encoder_ms,
        verification_ms,
        step_ms,
        tokens,
        transcription_ms,
        bytes_in=engine.bytes_in - before[0],
        bytes_out=engine.bytes_out - before[1],
    )


def decode_greedily(engine: Engine, batch: int, seconds: float) -> int:
    """Decode the batch's slots until every row has ended; returns the steps it took."""
    limit = min(int(seconds * TOKENS_PER_SECOND) + 1, engine.limits.max_positions)
    tokens = [engine.limits.start_token] * batch
    open_rows = set(range(batch))
    for position in range(limit):
        rows = [Row(slot, (tokens[slot],), position, END_BIAS) for slot in sorted(open_rows)]
        for row, prediction in zip(rows, engine.decode(rows), strict=True):
            tokens[row.slot] = int(prediction.tokens[0])
            if tokens[row.slot] == engine.limits.end_token:
                open_rows.discard(row.slot)
        if not open_rows:
            return position + 1
    return limit


def measure_transformers(batches: Sequence[int], seconds: Sequence[float], precision: str) -> Iterator[Measurement]:
    """Measure `generate` on the same clips, in the same precision; greedy, with at most as many tokens as the engines allow."""
    import torch

    from benchmarks import transformers_model

    device = "cuda" if hardware.find_gpu() else "cpu"
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32) if device == "cuda" else torch.float32
    model = transformers_model.load().to(device, dtype)
    for length, batch in itertools.product(seconds, batches):
        samples = np.stack([clip.samples for clip in speech(length, batch)]).astype(np.float32) / 32_768
        values = torch.from_numpy(samples).to(device, dtype)
        mask = torch.ones_like(values, dtype=torch.int64)  # equal lengths: nothing is padding

        def synchronised(work) -> None:
            with torch.inference_mode():
                work()
            if device == "cuda":
                torch.cuda.synchronize()

        def generate(values=values, mask=mask, limit=int(length * TOKENS_PER_SECOND)):
            return model.generate(values, attention_mask=mask, max_new_tokens=limit, do_sample=False)

        def encode(values=values, mask=mask):
            return model.model.encoder(values, attention_mask=mask)

        encoder_ms = median_ms(lambda work=encode: synchronised(work), PEER_REPEATS)
        total_ms = median_ms(lambda work=generate: synchronised(work), PEER_REPEATS)
        with torch.inference_mode():
            tokens = generate().shape[1]
        step_ms = max(0.0, total_ms - encoder_ms) / tokens
        yield Measurement(PEER, batch, length, encoder_ms, None, step_ms, tokens, total_ms)


@contextlib.contextmanager
def opened(target: str, directory: Path, found: Manifest, max_batch: int, max_seconds: float, graphs: bool) -> Iterator[Engine]:
    if target == TENSORRT:
        from runtime.engine.tensorrt_engine import open_tensorrt

        engine = open_tensorrt(directory, found, max_batch, max_seconds, graphs)
    elif target == TORCH:
        from runtime.engine.torch_engine import open_torch

        device = "cuda" if hardware.find_gpu() else "cpu"
        engine = open_torch(directory, found, max_batch, max_seconds, device, graphs, groups=1)  # a batch is one pass
    else:
        from runtime.engine.onnx_clip_engine import OnnxClipEngine

        engine = OnnxClipEngine(directory, found, max_batch)
    try:
        yield engine
    finally:
        engine.close()
        release_torch_memory()


def run(
    engines: Path,
    targets: Sequence[str],
    precision: str,
    batches: Sequence[int],
    seconds: Sequence[float],
    on_progress: Callable[[str], None],
    has_peer: bool = True,
) -> Iterator[EngineRun]:
    """Measure every target that has an engine, and transformers last; yields each run as soon as it is done.

    A failure is reported in its run, and the next one follows.
    """
    ceilings = machine.measure_ceilings(precision)
    release_torch_memory()
    for target, graphs in [(name, graphs) for name in targets for graphs in graph_choices(name)]:
        done = EngineRun(f"{target} {precision}" + ("" if graphs else " without graphs"))
        try:
            measure_engine(done, engines, target, precision, graphs, batches, seconds, ceilings, on_progress)
        except Exception as exc:  # the report shows any error
            done.failure = f"{type(exc).__name__}: {exc}"
        yield done
    if not has_peer:
        return
    peer = EngineRun(PEER)
    try:
        for measured in measure_transformers(
            [batch for batch in batches if batch in PEER_BATCHES] or batches, seconds, precision
        ):
            on_progress(f"{PEER}: {measured.batch} x {measured.audio_seconds:g} s")
            peer.measurements.append(measured)
    except Exception as exc:
        peer.failure = f"{type(exc).__name__}: {exc}"
    yield peer


def measure_engine(
    done: EngineRun,
    engines: Path,
    target: str,
    precision: str,
    graphs: bool,
    batches: Sequence[int],
    seconds: Sequence[float],
    ceilings: tuple[float, float],
    on_progress: Callable[[str], None],
) -> None:
    """Open one engine and fill its run."""
    before, began = machine.gpu_memory_mib(), time.perf_counter()
    directory = engines / manifest.directory_name(MODEL, target, precision)
    found = manifest.load(directory, MODEL, target, precision, max(batches))
    size = ModelSize.of(found)
    with opened(target, directory, found, max(batches), max(seconds), graphs) as engine:
        done.open_seconds, done.capture_seconds = time.perf_counter() - began, engine.capture_seconds
        for length, batch in itertools.product(seconds, batches):
            on_progress(f"{done.engine}: {batch} x {length:g} s")
            measured = measure(engine, done.engine, batch, length)
            frames = count_frames(int(length * SAMPLE_RATE))
            measured.encoder_floor_ms = size.encoder_floor_ms(batch, frames, *ceilings)
            measured.step_floor_ms = size.step_floor_ms(batch, frames, *ceilings)
            done.measurements.append(measured)
        done.memory_mib = None if before is None else machine.gpu_memory_mib() - before
        done.uncaptured_runs = engine.uncaptured_runs


def release_torch_memory() -> None:
    """Release the memory that torch keeps: it would hide the memory that the next engine takes."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def graph_choices(target: str) -> tuple[bool, ...]:
    return (True, False) if target == TORCH and hardware.find_gpu() else (True,)


def as_json(run: EngineRun) -> dict:
    """Return the run with its measurements and the figures derived from them."""

    def whole(each: Measurement) -> dict:
        return asdict(each) | {"tokens_per_second": each.tokens_per_second, "rtfx": each.rtfx}

    return asdict(run) | {"measurements": list(map(whole, run.measurements))}
