"""A client of one session without a transport, and the engine behind it."""

import abc
import json
from typing import Any

import numpy as np

from benchmarks.harness.simulation import SimulatedSeat
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Request, Result
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits
from server.stream.stream import Judge, judge_nothing

FRAME_SAMPLES = 320


class ScriptedClient(abc.ABC):
    """A client whose session has an engine that answers what the test tells it to.

    Subclasses make the session from `seat` and `take`, and send audio as their API has it.
    """

    def __init__(self, tokenizer: Tokenizer, judge: Judge = judge_nothing):
        self.messages: list[dict] = []
        self.requests: list[Request] = []
        self.answered = 0  # requests, from the first on
        self.now = 0.0
        self.seat = SimulatedSeat(SessionLimits(), tokenizer, self.requests.append, judge=judge)

    def take(self, message: Any) -> bool:
        """Receive a message of the session."""
        self.messages.append(json.loads(message.encode()))
        return True

    @property
    def ended(self) -> int:
        return len(self.seat.ended)

    @abc.abstractmethod
    def send_audio(self, pcm: bytes) -> None:
        """Send PCM16 mono at 16 kHz."""

    def sound(self, seconds: float, loudness: int = 8000) -> None:
        samples = np.random.default_rng(0).integers(-loudness, loudness, int(seconds * SAMPLE_RATE), dtype=np.int16)
        samples[np.arange(len(samples)) // 1600 % 2 == 1] //= 8
        for start in range(0, len(samples), FRAME_SAMPLES):
            self.now += FRAME_SAMPLES / SAMPLE_RATE
            self.send_audio(samples[start : start + FRAME_SAMPLES].tobytes())

    def quiet(self, seconds: float) -> None:
        self.sound(seconds, loudness=1)

    def follow(self, step: str) -> bool:
        """Do a step that clients of all APIs know by its name; False for another one."""
        match step:
            case "sound":
                self.sound(0.5)
            case "quiet":
                self.quiet(0.7)
            case "answer":
                self.answer_all()
            case _:
                return False
        return True

    def answer(self, *tokens: int) -> None:
        """Answer the newest request. Those before it were replaced."""
        self.answered = len(self.requests)
        self._answer(self.requests[-1], *tokens)

    def _answer(self, request: Request, *tokens: int) -> None:
        frames = tuple(range(0, 10 * len(tokens) + 1, 10)) if request.align else None
        self.seat.deliver(Result(request, tokens, (-0.01,) * len(tokens), first_frames=frames), self.now)

    def answer_all(self) -> None:
        """Answer each request that is not answered yet, and those that follow from that."""
        while self.answered < len(self.requests):
            request = self.requests[self.answered]
            self.answered += 1
            self._answer(request, *request.draft[: request.forced], 3)
