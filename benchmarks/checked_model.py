"""Checks a checkpoint on a folder of speech: error rates of transformers and of every engine of this machine, and their costs.

It is for users with weights that this project has not been measured with.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import quality
from benchmarks.built_engines import open_built
from benchmarks.file_sets import Recording, alone
from benchmarks.harness.accuracy import word_error_rate
from benchmarks.quality import Spread
from engine_build import checkpoint
from engine_build.streaming_parameters import EXCLUSIVE, FRAME_SAMPLES, INCLUSIVE, StreamingConfig
from moonshine_client import audio_file
from runtime import hardware
from runtime.audio import SAMPLE_RATE
from runtime.engine import manifest, selection
from runtime.engine.manifest import NATIVE, ONNXRUNTIME, TORCH
from runtime.engine.protocol import Engine
from runtime.scheduler import capacity
from runtime.scheduler.requests import TOKENS_PER_SECOND
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits

AUDIO = (".flac", ".wav", ".mp3", ".ogg", ".m4a")
MAX_BATCH = 8


@dataclass(frozen=True)
class CheckedWay:
    """One engine with one reading of the windows, on all of the speech."""

    way: str
    windows: str
    """Reading of a streaming model's windows; empty for a model of clips."""
    wer: float
    """Word error rate of each recording in one pass."""
    streamed_wer: float | None = None
    appeared_ms: Spread | None = None
    """Delay from a word's end to its first appearance, including this machine's computing time."""
    stable_ms: Spread | None = None
    final_ms: Spread | None = None
    violations: int = 0
    """Stable words that changed."""
    live_streams: int = 0
    """Streams that this machine can serve, as a build estimates them."""


def recordings_in(folder: Path) -> list[Recording]:
    """Read a folder with manifest.json (a list of `file` and `text`), or with a .txt beside each audio file.

    Raises FileNotFoundError if it has no recording with a text.
    """
    if (folder / "manifest.json").is_file():
        texts = {folder / each["file"]: each["text"] for each in json.loads((folder / "manifest.json").read_text())}
    else:
        found = (path for path in sorted(folder.iterdir()) if path.suffix in AUDIO and path.with_suffix(".txt").is_file())
        texts = {path: path.with_suffix(".txt").read_text().strip() for path in found}
    if not texts:
        raise FileNotFoundError(f"{folder} has neither a manifest.json nor audio files with a .txt beside them")
    return [alone(path.stem, audio_file.load(path), text) for path, text in texts.items()]


def run(model: str, recordings: Sequence[Recording], out: Path, progress: Callable[[str], None]) -> Iterator[CheckedWay]:
    """Yield each way as soon as it is measured. out: directory where engines are built."""
    streams = isinstance(checkpoint.load(model, say=progress).config, StreamingConfig)
    for windows in (EXCLUSIVE, INCLUSIVE) if streams else ("",):
        progress(f"transformers {windows}")
        yield CheckedWay("transformers fp32", windows, by_transformers(model, windows, recordings))
        for target, precision in ways():
            progress(f"{target} {precision} {windows}")
            engine, tokenizer, _ = open_built(model, target, precision, out, MAX_BATCH, "--windows", windows or EXCLUSIVE)
            yield by_engine(engine, tokenizer, windows, recordings, progress)
            engine.close()


def ways() -> Iterator[tuple[str, str]]:
    """Yield the targets and precisions that this machine can run."""
    if hardware.find_gpu() and selection.torch_has_cuda():
        yield TORCH, "fp16"
    if hardware.has_flags(manifest.NATIVE_FLAGS) and selection.can_have_native():
        yield NATIVE, "int8"
        yield NATIVE, "bf16"
    yield ONNXRUNTIME, "fp32"


def by_engine(
    engine: Engine, tokenizer: Tokenizer, windows: str, recordings: Sequence[Recording], progress: Callable[[str], None]
) -> CheckedWay:
    def stream(recording: Recording) -> quality.Run:
        return quality.stream_in_process(engine, tokenizer, SessionLimits(), True, recording)

    whole = quality.offline_rate(engine, tokenizer, [piece for each in recordings for piece in each.alone])
    found = quality.measure(engine.name, windows, recordings, whole, stream, progress)
    return CheckedWay(
        engine.name,
        windows,
        float("nan") if whole is None else whole,
        found.wer,
        found.appeared_ms,
        found.stable_ms,
        found.final_ms,
        found.violations,
        capacity.live_streams(engine),
    )


def by_transformers(model: str, windows: str, recordings: Sequence[Recording]) -> float:
    """Return the WER of greedy decoding in float32, each recording alone."""
    import torch

    network = streaming_network(model, windows) if windows else clip_network(model)
    weights, texts = checkpoint.load(model, say=lambda line: None), []
    tokenizer = Tokenizer(weights.pieces)
    for recording in recordings:
        samples = recording.samples[: len(recording.samples) // FRAME_SAMPLES * FRAME_SAMPLES].astype(np.float32) / 32_768
        audio, most = torch.from_numpy(samples)[None], int(len(samples) / SAMPLE_RATE * TOKENS_PER_SECOND) + 3
        mask = torch.ones(audio.shape, dtype=torch.long)  # without it transformers applies no window
        with torch.inference_mode():
            tokens = network.generate(audio, attention_mask=mask, max_new_tokens=most)[0].tolist()
        texts.append(tokenizer.text(token for token in tokens if token > weights.config.end_token))
    return round(word_error_rate([each.text for each in recordings], texts), 2)


def clip_network(model: str):
    from benchmarks import transformers_model

    return transformers_model.load(model)


def streaming_network(model: str, windows: str):
    from transformers import MoonshineStreamingForConditionalGeneration

    network = MoonshineStreamingForConditionalGeneration.from_pretrained(model).float().eval()
    if windows == INCLUSIVE:
        config = network.model.encoder.config
        config.sliding_windows = [[past + 1, future + 1] for past, future in config.sliding_windows]
    return network
