"""Measures the speed of transcribing whole recordings, all at once, beside other recognisers on the same files."""

import dataclasses
import itertools
import json
import queue
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import transformers_model
from benchmarks.file_sets import Recording, clips_one_by_one, sample_recordings
from benchmarks.harness.accuracy import word_error_rate
from engine_build.checkpoint import DEFAULT_MODEL
from runtime import hardware
from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine import selection
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import TOKENS_PER_SECOND, Priority, Request, Result
from runtime.tokenizer import Tokenizer
from server.stream.confidence import END_BIAS

PROJECT = Path(__file__).resolve().parent.parent
PEER_ENVIRONMENTS = PROJECT / ".peers"
REPEATS = 5
TRANSFORMERS_REPEATS = 2
TRANSFORMERS_BATCHES = (1, 4, 8, 16)
LONGEST_SECONDS = 29.0  # of one pass


@dataclass(frozen=True)
class Peer:
    """Another recogniser, in its own environment."""

    name: str
    packages: tuple[str, ...]
    script: str


PEERS = (
    Peer("moonshine-cpp 0.1.4", ("moonshine-cpp==0.1.4", "numpy"), "moonshine_cpp_peer.py"),
    Peer(
        "moonshine-voice 0.1.5, same weights",
        ("moonshine-voice==0.1.5", "moonshine-cpp==0.1.4", "numpy"),
        "moonshine_voice_peer.py",
    ),
    Peer(
        "sherpa-onnx 2.0.1, same weights",
        ("sherpa-onnx==2.0.1", "moonshine-cpp==0.1.4", "numpy"),
        "sherpa_onnx_peer.py",
    ),
)
NOT_MEASURED = {
    "faster-whisper": "its package has no model, and its models come from a model hub",
}


@dataclass(frozen=True)
class Offline:
    """Figures of one recogniser on all recordings."""

    name: str
    audio_seconds: float
    seconds: float | None
    """Median; None if it failed."""
    rtfx: float | None
    wer: float | None
    batch: int
    """Recordings at once."""
    repeats: int
    failure: str | None = None
    target: str | None = None
    """Target of this server's engine; None for a peer."""
    precision: str | None = None
    """Precision of this server's engine."""

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


def corpus() -> list[Recording]:
    """Return the evaluation clips and samples that fit one pass."""
    return [each for each in clips_one_by_one() + sample_recordings() if len(each.samples) <= LONGEST_SECONDS * SAMPLE_RATE]


def outcome(name: str, recordings: Sequence[Recording], seconds: Sequence[float], texts: Sequence[str], batch: int) -> Offline:
    audio_seconds = sum(len(each.samples) for each in recordings) / SAMPLE_RATE
    took = statistics.median(seconds)
    wer = word_error_rate([each.text for each in recordings], texts)
    return Offline(
        name, round(audio_seconds, 1), round(took, 3), round(audio_seconds / took, 1), round(wer, 2), batch, len(seconds)
    )


def transcribe_all(engine_directory: Path, target: str, precision: str, recordings: Sequence[Recording], batch: int) -> Offline:
    """Measure all recordings, submitted to the engine loop at once, like uploads."""
    choice = selection.choose(engine_directory, DEFAULT_MODEL, precision, target)
    engine, tokenizer, _ = selection.open_engine(choice, batch)
    loop = EngineLoop(engine, 0.0, Observer())
    loop.start()
    answers: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def once() -> tuple[float, list[str]]:
        began = time.perf_counter()
        for number, recording in enumerate(recordings):
            request = Request(number, str(number), Clip(recording.samples), priority=Priority.FILE, end_bias=END_BIAS)
            loop.submit(request, answers.put)
        results = sorted((answers.get() for _ in recordings), key=lambda result: result.request.request_id)
        return time.perf_counter() - began, [tokenizer.text(result.tokens) for result in results]

    once()
    runs = [once() for _ in range(REPEATS)]
    loop.stop()
    measured = outcome(f"this server's engine, {engine.name}", recordings, [seconds for seconds, _ in runs], runs[-1][1], batch)
    return dataclasses.replace(measured, target=target, precision=choice.precision)


def transcribe_with_transformers(recordings: Sequence[Recording], batch: int, tokenizer: Tokenizer) -> Offline:
    """Measure generate() on the same weights, recordings of similar length together; on a GPU in float16, else in float32."""
    import torch

    device, dtype = ("cuda", torch.float16) if hardware.find_gpu() else ("cpu", torch.float32)
    model = transformers_model.load().to(device, dtype)
    order = sorted(range(len(recordings)), key=lambda index: len(recordings[index].samples))
    texts = [""] * len(recordings)

    def once() -> float:
        began = time.perf_counter()
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            lengths = [len(recordings[index].samples) for index in group]
            values, mask = torch.zeros(len(group), max(lengths)), torch.zeros(len(group), max(lengths), dtype=torch.int64)
            for row, index in enumerate(group):
                values[row, : lengths[row]] = torch.from_numpy(recordings[index].samples.astype(np.float32) / 32_768)
                mask[row, : lengths[row]] = 1
            limit = int(max(lengths) / SAMPLE_RATE * TOKENS_PER_SECOND)
            with torch.inference_mode():
                tokens = model.generate(
                    values.to(device, dtype), attention_mask=mask.to(device), max_new_tokens=limit, do_sample=False
                )
            for row, index in enumerate(group):
                spoken = tokens[row].tolist()[1:]
                texts[index] = tokenizer.text(spoken[: spoken.index(2)] if 2 in spoken else spoken)
        return time.perf_counter() - began

    once()
    return outcome(f"transformers, batches of {batch}", recordings, [once() for _ in range(TRANSFORMERS_REPEATS)], texts, batch)


def run_peer(peer: Peer, recordings: Sequence[Recording]) -> Offline:
    """Install the peer if that has not been done, and run it once; it transcribes one recording after another."""
    python = PEER_ENVIRONMENTS / peer.script.removesuffix(".py") / "bin" / "python"
    audio_seconds = round(sum(len(each.samples) for each in recordings) / SAMPLE_RATE, 1)
    try:
        if not python.is_file():
            venv.create(python.parent.parent, with_pip=True)
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", *peer.packages], check=True, capture_output=True, text=True
            )
        with tempfile.TemporaryDirectory() as directory:
            paths = [Path(directory) / f"{number:03}.npy" for number in range(len(recordings))]
            for path, recording in zip(paths, recordings, strict=True):
                np.save(path, recording.samples.astype(np.float32) / 32_768)
            script = PROJECT / "benchmarks" / "peers" / peer.script
            done = subprocess.run([python, script, *paths], check=True, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.CalledProcessError, ValueError, IndexError) as exc:
        why = (getattr(exc, "stderr", "") or str(exc)).strip().splitlines()
        return Offline(peer.name, audio_seconds, None, None, None, 1, 0, failure=why[-1] if why else "failed")
    return outcome(peer.name, recordings, [said["seconds"]], said["texts"], 1)


def run(
    engine_directory: Path,
    targets: Sequence[str],
    precisions: Sequence[str],
    batches: Sequence[int],
    with_peers: bool,
    progress: Callable[[str], None],
) -> Iterator[Offline]:
    """Measure this server's engines, then transformers in several batch sizes, then the peers if requested."""
    recordings = corpus()
    for target, precision, batch in itertools.product(targets, precisions, batches):
        progress(f"{target} {precision}, up to {batch} at once")
        yield transcribe_all(engine_directory, target, precision, recordings, batch)
    tokenizer = Tokenizer.load(selection.choose(engine_directory, DEFAULT_MODEL, precisions[0], targets[0]).directory)
    for size in TRANSFORMERS_BATCHES:
        progress(f"transformers, batches of {size}")
        yield transcribe_with_transformers(recordings, size, tokenizer)
    for peer in PEERS if with_peers else ():
        progress(peer.name)
        yield run_peer(peer, recordings)
    for name, why in NOT_MEASURED.items() if with_peers else ():
        yield Offline(name, 0.0, None, None, None, 0, 0, failure=why)
