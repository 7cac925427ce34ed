"""Hours in minutes: sessions that come and go, processes killed under them, and what becomes of words, memory and files.

Clients are the project's own. What each is told at its end is held against what the same recording gave undisturbed.
"""

import asyncio
import dataclasses
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.accuracy import count_errors, evaluation_clips, samples
from benchmarks.servers import free_address, running_process
from moonshine_client import audio_file
from moonshine_client.client import StreamingClient, transcribe
from moonshine_client.held_audio import SAMPLE_RATE
from moonshine_client.wires import StreamError

LOOK_SECONDS = 2.0
SETTLED_SECONDS = 21.0  # a process that dies sooner, five times in a row, is given up by its supervisor
RESUME_SECONDS = 60.0  # an engine needs some to start on two busy cores
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Look:
    """At all processes of the server together."""

    seconds: float
    """Since the beginning."""
    memory_mib: float
    files: int
    threads: int


@dataclass
class Told:
    """What the sessions were told."""

    sessions: int = 0
    words: int = 0
    exact: int = 0
    """Sessions whose text is that of the undisturbed recording."""
    resumed: int = 0
    """Sessions that went on from another one at least once."""
    wrong_words: int = 0
    """Missing, added or changed ones, in sessions that went on."""
    failed: dict[str, int] = field(default_factory=dict)
    """Sessions that ended with an error, by its reason."""
    finals_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Soaked:
    minutes: float
    kills: int
    sessions: int
    exact: int
    resumed: int
    words: int
    wrong_words: int
    failed: dict[str, int]
    final_ms: float
    """Median."""
    tracebacks: int
    """In the log."""
    looks: list[Look]

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Recording:
    audio: np.ndarray
    text: str = ""
    """Undisturbed."""


def run(
    engines: Path, target: str, precision: str, minutes: float, clients: int, kills: int, progress: Callable[[str], None]
) -> Soaked:
    """kills: how many processes of the server are killed, spread over the time."""
    variables = {"ASR_ENGINE_DIR": str(engines.resolve()), "MOONSHINE_PRECISION": precision, "ASR_TARGET": target,
                 "ASR_WORKERS": "2", "ASR_ENGINES": "2", "ASR_CPU_THREADS": "1", "ASR_MAX_SESSIONS": "100"}  # fmt: skip
    address = free_address()
    with tempfile.NamedTemporaryFile("r") as log:
        variables |= {"ASR_LOG_LEVEL": "warning"}
        with running_process(["-m", "server"], address, variables, Path(log.name)) as server:
            told, looks, killed = asyncio.run(soak(address, server.pid, minutes * 60, clients, kills, progress))
        tracebacks = log.read().count("Traceback")
    return Soaked(
        round(minutes, 1), killed, told.sessions, told.exact, told.resumed, told.words, told.wrong_words, told.failed,
        round(float(np.median(told.finals_ms)), 1) if told.finals_ms else 0.0, tracebacks, looks,
    )  # fmt: skip


async def soak(
    address: str, pid: int, seconds: float, clients: int, kills: int, progress: Callable[[str], None]
) -> tuple[Told, list[Look], int]:
    progress("each recording once, undisturbed")
    recordings = [await undisturbed(address, each) for each in chosen()]
    told, looks, began = Told(), list[Look](), time.monotonic()
    until = began + seconds

    def report(killed: int) -> None:
        progress(
            f"{(time.monotonic() - began) / 60:.1f} min, {told.sessions} sessions, {killed} kills, {told.wrong_words} wrong words"
        )

    watching = asyncio.create_task(watch(pid, began, looks))
    killing = asyncio.create_task(kill_now_and_then(pid, began, seconds, kills, report))
    await asyncio.gather(*(keep_speaking(address, recordings, until, number, told) for number in range(clients)))
    watching.cancel()
    return told, looks, await killing


def chosen() -> list[Recording]:
    clips = [audio_file.load(clip.path) for clip in evaluation_clips()[::3]]
    return [Recording(audio) for audio in [*clips, *(audio_file.load(each.path) for each in samples())]]


async def undisturbed(address: str, recording: Recording) -> Recording:
    return Recording(recording.audio, (await transcribe(address, recording.audio, rtf=0)).final["text"])


async def keep_speaking(address: str, recordings: Sequence[Recording], until: float, number: int, told: Told) -> None:
    """One session after another, over either transport, quickly or as people speak."""
    chance = random.Random(number)
    while time.monotonic() < until:
        recording = chance.choice(recordings)
        try:
            final, resumed = await speak(address, recording.audio, chance)
        except (StreamError, OSError) as error:
            reason = error.reason if isinstance(error, StreamError) else type(error).__name__
            told.failed[reason] = told.failed.get(reason, 0) + 1
            continue
        note(told, recording.text, final, resumed)


async def speak(address: str, audio: np.ndarray, chance: random.Random) -> tuple[dict, bool]:
    """The final, and whether the stream went on from one session to another."""
    troubles: list[str] = []
    options = {
        "transport": chance.choice(("webrtc", "websocket")),
        "resume_seconds": RESUME_SECONDS,
        "on_trouble": troubles.append,
    }
    frame, pause = 320 * chance.choice((1, 5)), chance.choice((0.0, 1.0))
    async with StreamingClient(address, **options) as client:
        first = client.ready
        for start in range(0, len(audio), frame):
            await client.send(audio[start : start + frame].tobytes())
            await asyncio.sleep(pause * frame / SAMPLE_RATE)
        final = await client.close()
        return final, client.ready is not first


def note(told: Told, text: str, final: dict, resumed: bool) -> None:
    wrong, words = count_errors(text, final["text"])
    told.sessions += 1
    told.words += words
    told.exact += final["text"] == text
    told.resumed += resumed
    told.wrong_words += wrong
    told.finals_ms.append(final["latency_ms"])


async def kill_now_and_then(pid: int, began: float, seconds: float, kills: int, report: Callable[[int], None]) -> int:
    """A process at random, but none that has just begun. Returns how many."""
    chance, killed = random.Random(0), 0
    while killed < kills:
        await asyncio.sleep(seconds / kills * chance.uniform(0.2, 1.8))
        if time.monotonic() - began >= seconds:
            break
        settled = [child for child in children_of(pid) if age_seconds(child) > SETTLED_SECONDS]
        if settled:
            os.kill(chance.choice(settled), signal.SIGKILL)
            killed += 1
            report(killed)
    return killed


async def watch(pid: int, began: float, looks: list[Look]) -> None:
    while True:
        looks.append(look_at([pid, *children_of(pid)], time.monotonic() - began))
        await asyncio.sleep(LOOK_SECONDS)


def look_at(pids: Sequence[int], seconds: float) -> Look:
    memory = files = threads = 0
    for pid in pids:
        place = Path(f"/proc/{pid}")
        try:
            memory += int((place / "statm").read_text().split()[1]) * PAGE_BYTES
            files += len(list((place / "fd").iterdir()))
            threads += len(list((place / "task").iterdir()))
        except OSError:  # it has just been killed
            continue
    return Look(round(seconds, 1), round(memory / 2**20, 1), files, threads)


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def age_seconds(pid: int) -> float:
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return float(Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")


def growth(looks: Sequence[Look]) -> Iterator[tuple[str, float, float]]:
    """Of each thing that is looked at: the median of the second quarter of the time, and of the last."""
    quarter = max(1, len(looks) // 4)
    for name in ("memory_mib", "files", "threads"):
        early, late = (
            np.median([getattr(look, name) for look in part]) for part in (looks[quarter : 2 * quarter], looks[-quarter:])
        )
        yield name, float(early), float(late)
