"""Simulates hours in minutes: sessions come and go, processes are killed meanwhile, and words, memory and files are measured.

Clients are the project's own. Each final text is compared with the undisturbed texts of the same recording, sent at once and in
real time: text that was shown as stable restricts later text, so those two differ by a few words. To see whether losses cost
words, compare the sessions that resumed after a loss with those without a loss.
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

import httpx
import numpy as np

from benchmarks.harness.accuracy import evaluation_clips, normalise, samples
from benchmarks.servers import free_address, running_process
from benchmarks.words import WordCounts
from moonshine_client import audio_file
from moonshine_client.client import StreamingClient, transcribe
from moonshine_client.errors import StreamError
from moonshine_client.resend_buffer import SAMPLE_RATE

LOOK_SECONDS = 2.0
SETTLED_SECONDS = 21.0  # the supervisor gives up a process that dies sooner five times in a row
RESUME_SECONDS = 60.0  # an engine needs a part of it to start on two busy cores
LOOKED_AT = ("memory_mib", "files", "threads")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Look:
    """Figures of all processes of the server together."""

    seconds: float
    """Seconds since the beginning."""
    memory_mib: float
    files: int
    threads: int


@dataclass
class Words(WordCounts):
    """Words of some sessions, compared with the same recordings undisturbed."""

    sessions: int = 0
    exact: int = 0
    """Sessions without a word that differs."""


@dataclass
class TranscriptAssembler:
    """Results that the sessions received."""

    undisturbed: Words = field(default_factory=Words)
    """Words of sessions without a loss."""
    resumed: Words = field(default_factory=Words)
    """Words of sessions that resumed after a loss at least once."""
    failed: dict[str, int] = field(default_factory=dict)
    """Sessions that ended with an error, by its reason."""
    finals_ms: list[tuple[float, float]] = field(default_factory=list)
    """Time of each final, in seconds from the beginning, and its latency."""

    @property
    def sessions(self) -> int:
        return self.undisturbed.sessions + self.resumed.sessions


@dataclass(frozen=True)
class Soaked:
    minutes: float
    kills: int
    recovery_seconds: list[float]
    """Seconds from each death of the only engine process until sessions are accepted again, without other load."""
    told: TranscriptAssembler
    tracebacks: int
    """Tracebacks in the log."""
    looks: list[Look]

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Recording:
    audio: np.ndarray
    texts: tuple[str, ...] = ()
    """Possible undisturbed texts."""


def run(
    engines: Path, target: str, precision: str, minutes: float, clients: int, kills: int, progress: Callable[[str], None]
) -> Soaked:
    """kills: number of the server's processes that are killed, spread over the time."""
    variables = {
        "ASR_ENGINE_DIR": str(engines.resolve()),
        "MOONSHINE_PRECISION": precision,
        "ASR_TARGET": target,
        "ASR_CPU_THREADS": "1",
        "ASR_MAX_SESSIONS": "100",
        "ASR_LOG_LEVEL": "warning",
    }
    recovered = recovery(variables, progress) if kills else []
    address = free_address()
    with tempfile.NamedTemporaryFile("r") as log:
        several = {"ASR_WORKERS": "2", "ASR_ENGINES": "2"}
        with running_process(["-m", "server"], address, variables | several, Path(log.name)) as server:
            told, looks, killed = asyncio.run(soak(address, server.pid, minutes * 60, clients, kills, progress))
        tracebacks = log.read().count("Traceback")
    return Soaked(round(minutes, 1), killed, recovered, told, tracebacks, looks)


def recovery(variables: dict[str, str], progress: Callable[[str], None], times: int = 3) -> list[float]:
    """Return the seconds without accepted sessions after each kill of the only engine process."""
    address, found = free_address(), []
    with running_process(["-m", "server"], address, variables | {"ASR_WORKERS": "2", "ASR_ENGINES": "1"}) as server:
        for number in range(times):
            progress(f"recovery of an engine process, {number + 1} of {times}")
            time.sleep(SETTLED_SECONDS)
            began = time.monotonic()
            os.kill(engine_of(server.pid), signal.SIGKILL)
            while is_ready(address):
                time.sleep(0.01)
            while not is_ready(address):
                time.sleep(0.02)
            found.append(round(time.monotonic() - began, 2))
    return found


def engine_of(pid: int) -> int:
    return next(child for child in children_of(pid) if b"engine_process" in Path(f"/proc/{child}/cmdline").read_bytes())


def is_ready(address: str) -> bool:
    return httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200


async def soak(
    address: str, pid: int, seconds: float, clients: int, kills: int, progress: Callable[[str], None]
) -> tuple[TranscriptAssembler, list[Look], int]:
    progress("each recording undisturbed")
    recordings = await asyncio.gather(*(undisturbed(address, each) for each in chosen()))
    told, looks, began = TranscriptAssembler(), list[Look](), time.monotonic()

    def report(killed: int) -> None:
        minutes = (time.monotonic() - began) / 60
        progress(f"{minutes:.1f} min, {told.sessions} sessions, {killed} kills, {told.resumed.missing} words missing")

    watching = asyncio.create_task(watch(pid, began, looks))
    killing = asyncio.create_task(kill_now_and_then(pid, began, seconds, kills, report))
    await asyncio.gather(*(keep_speaking(address, recordings, began, seconds, number, told) for number in range(clients)))
    watching.cancel()
    return told, looks, await killing


def chosen() -> list[Recording]:
    clips = [audio_file.load(clip.path) for clip in evaluation_clips()[::3]]
    return [Recording(audio) for audio in [*clips, *(audio_file.load(each.path) for each in samples())]]


async def undisturbed(address: str, recording: Recording) -> Recording:
    texts = [normalise((await transcribe(address, recording.audio, rtf=rtf)).final["text"]) for rtf in (0, 1)]
    return Recording(recording.audio, tuple(texts))


async def keep_speaking(
    address: str, recordings: Sequence[Recording], began: float, seconds: float, number: int, told: TranscriptAssembler
) -> None:
    """Run one session after another, over either transport, fast or in real time."""
    chance = random.Random(number)
    while (now := time.monotonic() - began) < seconds:
        recording = chance.choice(recordings)
        try:
            final, went_on = await speak(address, recording.audio, chance)
        except (StreamError, OSError) as error:
            reason = error.reason if isinstance(error, StreamError) else type(error).__name__
            told.failed[reason] = told.failed.get(reason, 0) + 1
            continue
        note(told.resumed if went_on else told.undisturbed, recording, final)
        told.finals_ms.append((round(now, 1), final["latency_ms"]))


async def speak(address: str, audio: np.ndarray, chance: random.Random) -> tuple[dict, bool]:
    """Stream audio; returns the final, and whether the stream resumed in another session."""
    troubles: list[str] = []
    options = {
        "transport": chance.choice(("webrtc", "websocket")),
        "resume_seconds": RESUME_SECONDS,
        "refused_seconds": RESUME_SECONDS,
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


def note(words: Words, recording: Recording, final: dict) -> None:
    words.sessions += 1
    sent_seconds, heard_seconds = len(recording.audio) / SAMPLE_RATE, final["audio_ms"] / 1000
    words.exact += words.note(recording.texts, normalise(final["text"]), sent_seconds, heard_seconds)


async def kill_now_and_then(pid: int, began: float, seconds: float, kills: int, report: Callable[[int], None]) -> int:
    """Kill random processes that have not just begun, at roughly even intervals. Returns their number."""
    chance, killed = random.Random(0), 0
    for number in range(kills):
        due = began + seconds * (number + chance.random()) / kills
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        os.kill(chance.choice(await settled_children(pid)), signal.SIGKILL)
        killed += 1
        report(killed)
    return killed


async def settled_children(pid: int) -> list[int]:
    """Wait until at least one child process is older than SETTLED_SECONDS, and return all such."""
    while True:
        if settled := [child for child in children_of(pid) if age_seconds(child) > SETTLED_SECONDS]:
            return settled
        await asyncio.sleep(LOOK_SECONDS)


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
    """Yield for each of LOOKED_AT the medians over the second quarter of the time and over the last."""
    quarter = max(1, len(looks) // 4)
    for name in LOOKED_AT:
        early, late = (
            np.median([getattr(look, name) for look in part]) for part in (looks[quarter : 2 * quarter], looks[-quarter:])
        )
        yield name, float(early), float(late)
