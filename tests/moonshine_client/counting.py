"""Sound that can be counted: each number is a burst of its own pitch, and an engine for the tests that hears exactly these.

Whatever is lost or heard twice on the way shows in the text, whatever the cuts.
"""

import numpy as np

from runtime import audio
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Request, Result
from runtime.tokenizer import Tokenizer

MOST = 90
BURST_SECONDS, PAUSE_SECONDS = 0.4, 0.7
LOWEST_HZ, STEP_HZ = 300, 60
FIRST_TOKEN = 3
TOKENIZER = Tokenizer(["", "", "", *(f"▁{number}" for number in range(MOST))])


def sound(count: int) -> bytes:
    """PCM16 at 16 kHz: the numbers from 0, in a quarter of full scale, with quiet between them."""
    times = np.arange(int(BURST_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    quiet = np.zeros(int(PAUSE_SECONDS * SAMPLE_RATE), np.int16)
    bursts = [
        (8000 * np.sign(np.sin(2 * np.pi * (LOWEST_HZ + STEP_HZ * number) * times))).astype(np.int16) for number in range(count)
    ]
    return b"".join(part.tobytes() for burst in bursts for part in (quiet, burst))


def text(count: int) -> str:
    return " ".join(map(str, range(count)))


def hear(request: Request) -> Result:
    """The bursts of the clip that are there for half of their length at least."""
    samples = audio.to_float(request.clip)
    tokens = []
    for first, last in bursts_of(np.abs(samples) > 0.02):
        if last - first >= BURST_SECONDS * SAMPLE_RATE / 2:
            crossings = np.count_nonzero(np.diff(np.sign(samples[first:last])))
            hertz = crossings / 2 / ((last - first) / SAMPLE_RATE)
            tokens.append(FIRST_TOKEN + round((hertz - LOWEST_HZ) / STEP_HZ))
    frames = tuple(range(len(tokens) + 1)) if request.align and tokens else None
    return Result(request, tuple(tokens), (-0.01,) * len(tokens), first_frames=frames)


def bursts_of(loud: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of loud samples, over gaps shorter than 50 ms."""
    places = np.flatnonzero(loud)
    if not len(places):
        return []
    gaps = np.flatnonzero(np.diff(places) > SAMPLE_RATE // 20)
    firsts = [places[0], *places[gaps + 1]]
    lasts = [*places[gaps] + 1, places[-1] + 1]
    return list(zip(map(int, firsts), map(int, lasts), strict=True))
