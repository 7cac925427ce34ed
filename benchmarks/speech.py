"""Real recordings, each transcribed in one pass and as a stream: errors, delays and confidences of the words."""

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.file_sets import alone
from benchmarks.harness.simulation import Simulation
from benchmarks.quality import stream_in_process, transcribe_once
from benchmarks.speech_sets import Clip
from engine_build.checkpoint import DEFAULT_MODEL
from runtime.audio import SAMPLE_RATE
from runtime.engine import selection
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits

LONGEST_PIECE_SECONDS = (15.0, 25.0)  # a longer recording is transcribed offline in pieces, cut at the quietest place between
QUIET_SECONDS = 0.3


@dataclass(frozen=True)
class Way:
    """The way to transcribe clips, as each process needs it at its start."""

    engines: Path
    target: str
    precision: str
    interval_ms: float = 500.0
    count_compute: bool = False
    """True if results arrive after the engine's computing time."""


@dataclass(frozen=True)
class Heard:
    """One transcribed clip, as in the results. Times are in milliseconds; those of words count from each word's end."""

    set_name: str
    file: str
    kind: str
    reference: str
    offline: str
    """Text of the whole clip in one pass, as in transformers."""
    streamed: str
    seconds: float
    appeared_ms: tuple[float, ...]
    stable_ms: tuple[float, ...]
    unstable_words: int
    violations: int
    final_ms: float
    requests: int
    retries: int
    compute_seconds: float
    words: tuple[str, ...] = ()
    """Words of the final, in order."""
    confidences: tuple[float, ...] = ()
    """Confidence of each word."""

    @property
    def name(self) -> str:
        return f"{self.set_name}/{self.file}"


def listen_to(clips: Sequence[Clip], way: Way, processes: int, progress: Callable[[str], None]) -> list[Heard]:
    """Transcribe the clips in order, with this many processes of one thread each."""
    with multiprocessing.get_context("spawn").Pool(processes, initializer=begin, initargs=(way, processes)) as pool:
        return list(told(pool.imap(hear, clips), len(clips), progress))


def told(results: Iterator[Heard], count: int, progress: Callable[[str], None]) -> Iterator[Heard]:
    for number, heard in enumerate(results, start=1):
        progress(f"{heard.set_name}: {number} of {count} clips")
        yield heard


@dataclass
class Listener:
    """Objects that each process holds."""

    engine: Engine
    tokenizer: Tokenizer
    way: Way


listeners: list[Listener] = []  # of this process: one, made at its start


def begin(way: Way, processes: int) -> None:
    choice = selection.choose(way.engines, DEFAULT_MODEL, way.precision, way.target)
    engine, tokenizer, _ = selection.open_engine(choice, max_batch=1, threads=1 if processes > 1 else None)
    listeners.append(Listener(engine, tokenizer, way))


def hear(clip: Clip) -> Heard:
    listener = listeners[0]
    limits = SessionLimits(interim_interval_ms=listener.way.interval_ms)
    recording = alone(clip.name, clip.samples, clip.text)
    run = stream_in_process(listener.engine, listener.tokenizer, limits, listener.way.count_compute, recording)
    assert run.simulation is not None, "it was streamed in this process"
    results = run.simulation.results
    words = run.simulation.messages[-1][1]["words"]
    return Heard(
        clip.set_name,
        clip.file,
        clip.kind,
        clip.text,
        offline=in_one_go(listener, clip),
        streamed=run.text,
        seconds=round(len(clip.samples) / SAMPLE_RATE, 2),
        appeared_ms=tuple(round(word.appeared_ms - word.end_ms) for word in run.heard.words),
        stable_ms=tuple(round(word.stable_ms - word.end_ms) for word in run.heard.words),
        unstable_words=run.heard.unstable_words,
        violations=run.heard.violations,
        final_ms=round(run.heard.final_latency_ms, 1),
        requests=len(results),
        retries=sum(each.request.is_retry for each in results),
        compute_seconds=round(run.simulation.compute_seconds, 3),
        words=tuple(word["w"] for word in words),
        confidences=tuple(word["confidence"] for word in words),
    )


def stream_whole(clip: Clip, way: Way) -> dict:
    """Return the final message of one stream, with words."""
    begin(way, processes=1)
    listener = listeners.pop()
    simulation = Simulation(listener.engine, listener.tokenizer, SessionLimits(interim_interval_ms=way.interval_ms), words=True)
    simulation.run(clip.samples)
    return simulation.messages[-1][1]


def in_one_go(listener: Listener, clip: Clip) -> str:
    texts = (transcribe_once(listener.engine, listener.tokenizer, piece) for piece in pieces(clip.samples))
    return " ".join(filter(None, texts))


def pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pieces that fit one pass."""
    shortest, longest = (int(seconds * SAMPLE_RATE) for seconds in LONGEST_PIECE_SECONDS)
    while len(samples) > longest:
        window = np.ones(int(QUIET_SECONDS * SAMPLE_RATE))
        power = np.convolve(samples[shortest:longest].astype(np.float64) ** 2, window, mode="valid")
        cut = shortest + int(np.argmin(power)) + len(window) // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


def as_json(heard: Heard) -> dict:
    return dataclasses.asdict(heard)


def of_json(fields: dict) -> Heard:
    return Heard(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
