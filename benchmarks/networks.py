"""Live speech over bad networks: errors and delays of the words."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.harness.accuracy import normalise, samples
from benchmarks.harness.lossy_network import Network, lossy
from benchmarks.servers import running_server
from benchmarks.words import WordCounts
from moonshine_client import audio_file
from moonshine_client.client import StreamingClient, send_all
from moonshine_client.errors import StreamError
from moonshine_client.resend_buffer import SAMPLE_RATE

LOSSLESS = Network("none lost")
NETWORKS = (
    LOSSLESS,
    Network("1% lost", loss=0.01),
    Network("5% lost", loss=0.05),
    Network("20% lost", loss=0.2),
    Network("200 ms later", delay_ms=200),
    Network("200 ms later, 5% lost", delay_ms=200, loss=0.05),
    Network("reordered by up to 80 ms", delay_ms=20, jitter_ms=80),
    Network("30 s dark", trouble_after_seconds=10.0, blackout_seconds=30.0),
    Network("another address", trouble_after_seconds=10.0, moves=True),
)
STREAMS = 3  # over each network
RESUME_SECONDS = 120.0


@dataclass
class Crossed(WordCounts):
    """Results over one network, for all streams together; words are compared with the same streams on a network without loss."""

    network: str = ""
    streams: int = 0
    went_on: int = 0
    """Streams that lost a session and resumed in another."""
    failed: list[str] = field(default_factory=list)
    silent_seconds: float = 0.0
    """The longest time between two messages of a stream that received speech."""
    update_ms: list[float] = field(default_factory=list)
    """Time from the sending of an update's newest audio by the client to the update at the client."""

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


@dataclass
class Stream:
    text: str
    audio_seconds: float
    update_ms: list[float]
    silent_seconds: float
    went_on: bool


def run(engines: Path, precision: str, progress: Callable[[str], None]) -> Iterator[Crossed]:
    audio = audio_file.load(max(samples(), key=lambda each: each.path.stat().st_size).path)
    with running_server(engines, precision, {"ASR_TARGET": "onnxruntime"}) as address:
        undisturbed: list[str] = []
        for network in NETWORKS:
            progress(network.name)
            crossed, texts = asyncio.run(cross(address, network, audio, undisturbed))
            undisturbed = undisturbed or texts
            yield crossed


async def cross(address: str, network: Network, audio: np.ndarray, undisturbed: Sequence[str]) -> tuple[Crossed, list[str]]:
    crossed, texts = Crossed(network=network.name), list[str]()
    for outcome in await asyncio.gather(
        *(speak(address, network, audio, seed) for seed in range(STREAMS)), return_exceptions=True
    ):
        match outcome:
            case Stream():
                texts.append(outcome.text)
                note(crossed, outcome, undisturbed or [outcome.text], len(audio) / SAMPLE_RATE)
            case StreamError() | OSError():
                crossed.failed.append(str(outcome))
            case BaseException():
                raise outcome
    return crossed, texts


def note(crossed: Crossed, stream: Stream, undisturbed: Sequence[str], audio_seconds: float) -> None:
    crossed.note(undisturbed, stream.text, audio_seconds, stream.audio_seconds)
    crossed.streams += 1
    crossed.went_on += stream.went_on
    crossed.silent_seconds = max(crossed.silent_seconds, stream.silent_seconds)
    crossed.update_ms += stream.update_ms


async def speak(server: str, network: Network, audio: np.ndarray, seed: int) -> Stream:
    """Stream audio in real time, each stream over its own network."""
    options = {"transport": "webrtc", "resume_seconds": RESUME_SECONDS, "max_interims": None}
    async with lossy(server, network, seed) as address, StreamingClient(address, **options) as client:
        first, began = client.ready, time.monotonic()
        heard = asyncio.create_task(listen(client, began))
        await send_all(client, audio, 1.0, lambda seconds: None)
        final = await client.close()
        update_ms, silent_seconds = await heard
        return Stream(normalise(final["text"]), final["audio_ms"] / 1000, update_ms, silent_seconds, client.ready is not first)


async def listen(client: StreamingClient, began: float) -> tuple[list[float], float]:
    """Measure updates. Audio is sent in real time, so that its time on the clock is its place in the stream."""
    update_ms, silent_seconds, last = list[float](), 0.0, began
    async for interim in client:
        now = time.monotonic()
        update_ms.append(round((now - began) * 1000 - interim["audio_ms"], 1))
        silent_seconds, last = max(silent_seconds, now - last), now
    return update_ms, silent_seconds
