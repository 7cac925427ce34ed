"""The cost of an update of a live stream, by model and by the length of its segment.

A model of clips encodes the whole segment again, a streaming model only its new audio. Updates of many streams share the engine,
as they do while serving: each clip on its own lane, streams packed in one call.
"""

import functools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.built_engines import open_built
from benchmarks.harness.accuracy import evaluation_clips
from engine_build.native_target import LONGEST_VECTOR
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE, STREAMING_FRAME_SAMPLES, Clip, count_frames
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Cores, Engine, Row
from runtime.scheduler.capacity import DRAFT_TOKENS, SINGLE_STEPS

REPEATS = 5
POSITION_STEP = 160  # frames by which the room for keys and values grows: stream_encoder.h with AVX-512
DRAFT = (1, *range(300, 300 + DRAFT_TOKENS - 1))


@dataclass(frozen=True)
class UpdateCost:
    """Costs of one model on one engine. Times are medians, in milliseconds for each stream."""

    model: str
    engine: str
    streams: int
    segment_seconds: float
    new_seconds: float
    encoder_ms: float
    decoder_ms: float
    """Time of a pass that verifies DRAFT_TOKENS tokens, and of SINGLE_STEPS steps."""
    mebibytes: float
    """Memory of a stream at this length, as calculated."""

    @property
    def update_ms(self) -> float:
        return self.encoder_ms + self.decoder_ms

    @property
    def streams_at_one_second(self) -> float:
        """Number of streams that fill the engine with one update per second each."""
        return 1000 / self.update_ms


def run(
    models: Sequence[Path | str],
    targets: Sequence[str],
    precision: str,
    streams: int,
    segments: Sequence[float],
    new_seconds: float,
    out: Path,
) -> Iterator[UpdateCost]:
    """Build each engine if it is not built, and yield every figure as soon as it is measured."""
    for model in models:
        for target in targets:
            engine, _, found = open_built(str(model), target, precision, out, streams, max_streams=streams)
            for seconds in segments:
                yield measure(engine, found, streams, seconds, new_seconds)
            engine.close()


def measure(engine: Engine, found: Manifest, streams: int, segment_seconds: float, new_seconds: float) -> UpdateCost:
    slots, encoder, decoder = range(streams), [], []
    audio = [speech(slot, segment_seconds) for slot in slots]
    for end in ends_of(engine, segment_seconds, new_seconds):
        began = time.perf_counter()
        encode(engine, slots, [clip_of(samples, end) for samples in audio])
        encoded = time.perf_counter()
        decode(engine, slots)
        encoder.append(encoded - began)
        decoder.append(time.perf_counter() - encoded)
    for slot in slots:
        engine.free(slot)
    to_ms = 1000 / streams
    costs = statistics.median(encoder[1:]) * to_ms, statistics.median(decoder[1:]) * to_ms
    memory = memory_of(found, segment_seconds)
    return UpdateCost(Path(found.model).name, engine.name, streams, segment_seconds, new_seconds, *costs, memory)


def ends_of(engine: Engine, segment_seconds: float, new_seconds: float) -> list[float]:
    """Return the lengths of the segment that are transcribed one after the other; the first one is not counted."""
    if not engine.limits.continues_clips:
        return [segment_seconds] * (1 + REPEATS)
    repeats = min(REPEATS, int(segment_seconds / new_seconds) - 1)
    return [segment_seconds - repeat * new_seconds for repeat in range(repeats, -1, -1)]


def memory_of(found: Manifest, seconds: float) -> float:
    """Return the MiB of a stream in the native engine: keys and values for the decoder, and a streaming encoder's state."""
    kept_bytes = 4 if found.precision == "fp32" else 2
    frames = (
        int(seconds * SAMPLE_RATE) // STREAMING_FRAME_SAMPLES
        if found.stream_encoder
        else count_frames(int(seconds * SAMPLE_RATE))
    )
    positions = -(-frames // POSITION_STEP) * POSITION_STEP
    values = -(-found.head_dim // LONGEST_VECTOR) * LONGEST_VECTOR
    cross = found.decoder_layers * found.heads * positions * (found.head_dim + values) * kept_bytes
    state = found.stream_encoder.state_size * 4 if found.stream_encoder else 0
    return (cross + state) / 2**20


def encode(engine: Engine, slots: Sequence[int], clips: Sequence[Clip]) -> None:
    """Encode the clips as the engine loop does."""
    if not engine.limits.encode_lanes:
        engine.encode(slots, clips)
        engine.wait()
        return
    for encoding in [engine.begin_encode(slot, clip, Cores.ONE) for slot, clip in zip(slots, clips, strict=True)]:
        encoding.finish()


def decode(engine: Engine, slots: Sequence[int]) -> None:
    engine.decode([Row(slot, DRAFT, 0) for slot in slots])
    for step in range(SINGLE_STEPS):
        engine.decode([Row(slot, (DRAFT[-1],), len(DRAFT) + step) for slot in slots])


def clip_of(samples: np.ndarray, seconds: float) -> Clip:
    count = int(seconds * SAMPLE_RATE)
    return Clip(samples[:count], 0, ((0, count),), gains=(1.0,))


def speech(number: int, seconds: float) -> np.ndarray:
    """Return this many seconds of all speech, from another position for each stream."""
    return np.resize(np.roll(all_speech(), -number * SAMPLE_RATE * 5), int(seconds * SAMPLE_RATE))


@functools.cache
def all_speech() -> np.ndarray:
    """Return the evaluation clips, one after the other."""
    return np.concatenate([audio_file.load(clip.path) for clip in evaluation_clips()])
