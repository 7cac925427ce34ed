"""A session of hours is as good as its first minute: memory and work do not grow with it."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from benchmarks.harness.simulation import SimulatedSeat, native_session
from runtime.audio import SAMPLE_RATE, count_frames
from runtime.scheduler.requests import Request, Result
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits
from server.stream import edges

LIMITS = SessionLimits(
    max_buffer_seconds=60,
    init_timeout_seconds=5,
    idle_timeout_seconds=30,
    close_timeout_seconds=20,
)
TOKENIZER = Tokenizer(["", "", "", *(f"▁word{number}" for number in range(97))])
FRAME_SECONDS = 0.25
WORD_SAMPLES = SAMPLE_RATE // 2
HOURS = 1


def speech(seconds: float) -> np.ndarray:
    """Bursts of 0.5 s, one word each, with pauses between some of them; as loud and unsteady as speech."""
    random = np.random.default_rng(0)
    samples = random.integers(-8000, 8000, int(seconds * SAMPLE_RATE)).astype(np.float32)
    position = np.arange(len(samples))
    samples *= np.where(position % 1600 < 800, 1.0, 0.2)
    words = random.random(-(-len(samples) // WORD_SAMPLES)) < 0.85  # the others are pauses
    return (samples * words[position // WORD_SAMPLES]).astype(np.int16)


@dataclasses.dataclass
class Stream:
    """A session whose model says one word for each half second of sound it hears, at once."""

    messages: int = 0
    longest_message: int = 0
    longest_clip_seconds: float = 0.0
    longest_draft: int = 0
    segments: int = 0
    final: dict | None = None

    def __post_init__(self):
        self.requests: list[Request] = []
        self.seat = SimulatedSeat(LIMITS, TOKENIZER, self.requests.append)
        self.session = native_session(self.seat, LIMITS, self._receive)
        self.session.on_text('{"op":"init","sid":"long","tail":true}', 0.0)

    def _receive(self, message: dict) -> bool:
        self.messages += 1
        self.longest_message = max(self.longest_message, len(json.dumps(message)))
        self.segments += len(message.get("segments", ()))
        if message["op"] in ("final", "error"):
            self.final = message
        return True

    def hear(self, samples: np.ndarray, now: float) -> None:
        self.session.on_audio(samples.tobytes(), now)
        self.answer(now)

    def answer(self, now: float) -> None:
        while self.requests:
            request = self.requests.pop()
            self.longest_clip_seconds = max(self.longest_clip_seconds, request.clip.seconds)
            self.longest_draft = max(self.longest_draft, len(request.draft))
            count = min(int(request.clip.seconds * 2), request.max_tokens)
            forced = request.draft[: request.forced]
            tokens = forced + tuple(
                3 + (request.clip.position // WORD_SAMPLES + index) % 97 for index in range(len(forced), count)
            )
            frames = count_frames(len(request.clip.samples))
            limits = np.linspace(0, frames, len(tokens) + 1).astype(int).tolist()
            result = Result(
                request, tokens, (-0.1,) * len(tokens), first_frames=tuple(limits) if request.align and tokens else None
            )
            self.seat.deliver(result, now)


@pytest.mark.slow
def test_memory_messages_and_work_are_those_of_the_first_minutes_after_an_hour():
    stream, minute = Stream(), speech(60.0)
    step = int(FRAME_SECONDS * SAMPLE_RATE)
    seen, memory = [], []
    tracemalloc.start()
    try:
        for number in range(HOURS * 60):
            for start in range(0, len(minute), step):
                stream.hear(minute[start : start + step], number * 60.0 + start / SAMPLE_RATE)
            seen.append((stream.longest_message, stream.longest_clip_seconds, stream.longest_draft))
            memory.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert stream.final is None, stream.final
    assert seen[-1][1] <= 12.1 + edges.TAIL_SAMPLES / SAMPLE_RATE and seen[-1][2] <= 100
    assert seen[-1] <= tuple(most * 1.1 for most in seen[9]), "what was the most after ten minutes is the most after an hour"
    assert memory[-1] - memory[9] <= 2000 * stream.segments, "what was said is kept for the final, nothing else"
    stream.session.on_text('{"op":"close"}', HOURS * 3600.0)
    stream.answer(HOURS * 3600.0)
    assert stream.final["op"] == "final" and len(json.dumps(stream.final)) <= 2 * seen[9][0]
