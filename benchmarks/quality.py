"""Streams recordings and measures every message: errors, delays and stability of the words that a speaker sees."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.file_sets import Piece, Recording
from benchmarks.harness.accuracy import word_error_rate
from benchmarks.harness.simulation import Simulation, run_step
from benchmarks.listening import Listening, SeenWord, listen
from moonshine_client.client import transcribe
from moonshine_client.resend_buffer import FRAME_MS
from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine.protocol import Engine
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.requests import Request
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits
from server.stream.confidence import END_BIAS


@dataclass(frozen=True)
class Spread:
    """Percentiles of many values, in milliseconds."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        return cls(*np.percentile(values, (50, 95)).round(1).tolist()) if len(values) else None


@dataclass(frozen=True)
class Quality:
    """Figures of one file set, streamed in one way."""

    file_set: str
    way: str
    audio_seconds: float
    words: int
    wer: float
    offline_wer: float | None
    """WER of one pass over each utterance alone; None if an utterance is too long for one pass."""
    appeared_ms: Spread | None
    """Time from a word's end in the audio to its first appearance."""
    stable_ms: Spread | None
    """Time from a word's end in the audio until it is stable."""
    unstable_ratio: float
    """UPWR."""
    unstable_ratio_as_shown: float
    """UPWR with case and punctuation."""
    violations: int
    final_ms: Spread
    """Time from close to the final."""
    updates: int
    compute_share: float | None
    """Seconds of computing for each second of audio."""
    passes: float | None
    """Decoder passes for each update, final ones included."""
    single_steps: float | None
    """Decoder passes for each update that fed a single token."""
    timeline: tuple[SeenWord, ...] = ()
    """The words of the set's longest recording."""

    def as_json(self) -> dict:
        return dataclasses.asdict(dataclasses.replace(self, timeline=()))


@dataclass
class Run:
    """Result of one streamed recording."""

    recording: Recording
    text: str
    heard: Listening
    simulation: Simulation | None = None


def stream_in_process(
    engine: Engine, tokenizer: Tokenizer, limits: SessionLimits, count_compute: bool, recording: Recording
) -> Run:
    simulation = Simulation(engine, tokenizer, limits, count_compute, words=True)
    text = simulation.run(recording.samples)
    return Run(recording, text, listen(simulation.messages, len(recording.samples) / SAMPLE_RATE), simulation)


def stream_over_webrtc(address: str, recording: Recording) -> Run:
    """Stream a recording in real time: a frame is sent when its last sample has been spoken."""
    messages: list[tuple[float, dict]] = []
    began = 0.0

    def receive(message: dict) -> None:
        messages.append((time.monotonic() - began, message))

    def sent(seconds: float) -> None:
        nonlocal began
        if not began:
            began = time.monotonic() - FRAME_MS / 1000

    done = asyncio.run(transcribe(address, recording.samples, words=True, on_interim=receive, on_sent=sent))
    closed_at = len(recording.samples) / SAMPLE_RATE
    messages.append((closed_at + done.final_seconds, done.final))
    return Run(recording, done.final["text"], listen(messages, closed_at))


def measure(
    file_set: str,
    way: str,
    recordings: Sequence[Recording],
    offline_wer: float | None,
    stream: Callable[[Recording], Run],
    progress: Callable[[str], None],
) -> Quality:
    runs = []
    for number, recording in enumerate(recordings, start=1):
        progress(f"{file_set}, {way}: {number} of {len(recordings)}")
        runs.append(stream(recording))
    words = [word for run in runs for word in run.heard.words]
    results = [result for run in runs if run.simulation for result in run.simulation.results]
    audio_seconds = sum(len(each.samples) for each in recordings) / SAMPLE_RATE

    def per_update(count: str) -> float | None:
        return round(sum(getattr(each.timings, count) for each in results) / len(results), 2) if results else None

    return Quality(
        file_set=file_set,
        way=way,
        audio_seconds=round(audio_seconds, 1),
        words=len(words),
        wer=round(word_error_rate([run.recording.text for run in runs], [run.text for run in runs]), 2),
        offline_wer=offline_wer,
        appeared_ms=Spread.of([word.appeared_ms - word.end_ms for word in words]),
        stable_ms=Spread.of([word.stable_ms - word.end_ms for word in words]),
        unstable_ratio=round(sum(run.heard.unstable_words for run in runs) / max(1, len(words)), 3),
        unstable_ratio_as_shown=round(sum(run.heard.unstable_as_shown for run in runs) / max(1, len(words)), 3),
        violations=sum(run.heard.violations for run in runs),
        final_ms=Spread.of([run.heard.final_latency_ms for run in runs]),
        updates=len(results) or sum(run.heard.interims + 1 for run in runs),
        compute_share=round(sum(run.simulation.compute_seconds for run in runs) / audio_seconds, 3) if results else None,
        passes=per_update("passes"),
        single_steps=per_update("single_steps"),
        timeline=tuple(max(runs, key=lambda run: len(run.recording.samples)).heard.words),
    )


def offline_rate(engine: Engine, tokenizer: Tokenizer, pieces: Sequence[Piece]) -> float | None:
    """Return the WER of one pass over each piece alone; None if a piece is too long for one pass."""
    if any(len(piece.samples) > engine.limits.max_samples for piece in pieces):
        return None
    texts = [transcribe_once(engine, tokenizer, piece.samples) for piece in pieces]
    return round(word_error_rate([piece.text for piece in pieces], texts), 2)


def transcribe_once(engine: Engine, tokenizer: Tokenizer, audio: np.ndarray) -> str:
    batcher = Batcher(engine.limits, max_wait_seconds=0.0)
    batcher.submit(Request(0, "offline", Clip(audio), end_bias=END_BIAS), now=0.0)
    while (step := batcher.plan(now=0.0)) is not None:
        for result in run_step(engine, batcher, step, now=0.0):
            return tokenizer.text(result.tokens)
    raise RuntimeError("the engine gave no result")
