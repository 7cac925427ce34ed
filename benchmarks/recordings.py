"""Measures a long recording over the REST API: speed compared with the engine alone, memory, and the effect on a live stream."""

import asyncio
import contextlib
import dataclasses
import io
import itertools
import statistics
import threading
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks import offline
from benchmarks.harness.accuracy import samples
from benchmarks.servers import free_address, running_process
from moonshine_client import audio_file
from moonshine_client.client import Transcription, transcribe
from runtime.audio import SAMPLE_RATE

LIVE_REPEATS = 5
BATCH = 8
LOOK_SECONDS = 0.25  # between two checks of the server's memory


@dataclass(frozen=True)
class Live:
    """Latencies of streams at the speed of speech: medians of several."""

    interim_ms: float
    """Median latency of an update."""
    final_ms: float


@dataclass(frozen=True)
class Recorded:
    audio_seconds: float
    seconds: float
    rtfx: float
    engine_rtfx: float
    """RTFx of the engine alone, on the offline benchmark's recordings, as many at once as the server transcribes pieces."""
    share: float
    """Share of the engine's RTFx that the REST API reaches."""
    memory_before_mib: float
    memory_tenths_mib: list[float]
    """Largest memory in each tenth of the time."""
    alone: Live
    beside: Live
    """Latencies while a recording is transcribed."""

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


def run(engines: Path, target: str, precision: str, seconds: float, progress: Callable[[str], None]) -> Recorded:
    progress("the engine alone")
    engine = offline.transcribe_all(engines, target, precision, offline.corpus(), BATCH)
    assert engine.rtfx is not None, "the engine transcribes its own recordings"
    variables = {
        "ASR_ENGINE_DIR": str(engines.resolve()),
        "MOONSHINE_PRECISION": precision,
        "ASR_TARGET": target,
        "ASR_LOG_LEVEL": "warning",
        "ASR_FILE_STRETCHES": str(BATCH),
        "ASR_MAX_UPLOAD_MB": "1000",
    }
    address = free_address()
    with running_process(["-m", "server"], address, variables) as server:
        progress("a live stream alone")
        alone = live(address)
        before = resident_mib(server.pid)
        progress(f"{seconds:g} s over REST")
        with watched(server.pid) as seen:
            took = upload(address, recording(seconds))
        progress("a live stream beside a recording")
        beside = live_beside(address, recording(seconds))
    rtfx = seconds / took
    return Recorded(
        seconds,
        round(took, 1),
        round(rtfx, 1),
        engine.rtfx,
        round(rtfx / engine.rtfx, 3),
        before,
        [max(tenth) for tenth in tenths(seen)],
        alone,
        beside,
    )


def tenths(values: list[float]) -> list[list[float]]:
    edges = [len(values) * number // 10 for number in range(11)]
    return [values[first : max(last, first + 1)] for first, last in itertools.pairwise(edges)]


def recording(seconds: float) -> bytes:
    """Return a WAV file of this length: a repeated sample."""
    speech = audio_file.load(max(samples(), key=lambda each: each.path.stat().st_size).path)
    count = int(seconds * SAMPLE_RATE)
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.resize(speech, count).tobytes())
    return written.getvalue()


def upload(address: str, sound: bytes) -> float:
    """Transcribe by upload; returns the seconds it took."""
    began = time.monotonic()
    files = {"file": ("long.wav", sound)}
    answer = httpx.post(
        f"http://{address}/v1/audio/transcriptions", files=files, data={"model": "default"}, timeout=None, trust_env=False
    )
    answer.raise_for_status()
    return time.monotonic() - began


def live(address: str) -> Live:
    speech = audio_file.load(min(samples(), key=lambda each: each.path.stat().st_size).path)
    heard = [asyncio.run(transcribe(address, speech)) for _ in range(LIVE_REPEATS)]
    return Live(
        round(statistics.median(latencies(heard)), 1), round(statistics.median(each.final["latency_ms"] for each in heard), 1)
    )


def latencies(heard: list[Transcription]) -> list[float]:
    return [interim["latency_ms"] for each in heard for interim in each.interims]


def live_beside(address: str, sound: bytes) -> Live:
    """Measure live streams beside an upload, which is abandoned when they have ended: the server then stops its work."""

    async def both() -> Live:
        async with httpx.AsyncClient(timeout=None, trust_env=False) as http:
            files = {"file": ("long.wav", sound)}
            sending = asyncio.create_task(
                http.post(f"http://{address}/v1/audio/transcriptions", files=files, data={"model": "default"})
            )
            found = await asyncio.to_thread(live, address)
            assert not sending.done(), "the recording is too short to be transcribed beside all of the live streams"
            sending.cancel()
            return found

    return asyncio.run(both())


@contextlib.contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Yield a list that receives the resident memory of a process, in MiB, at intervals."""
    seen, ended = [resident_mib(pid)], threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            seen.append(resident_mib(pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def resident_mib(pid: int) -> float:
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20, 1)
