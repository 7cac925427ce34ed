"""The same audio says the same, whatever messages it comes in."""

import numpy as np
import pytest

from benchmarks.harness.simulation import SimulatedSeat, Simulation, frames_of, native_session
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Result
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits

SAMPLE_MS = 1000 / SAMPLE_RATE
LENGTHS_MS = (SAMPLE_MS, 7 * SAMPLE_MS, 5.0, 33.0, 100.0, 333.0, 2000.0)
NO_UPDATES = SessionLimits.model_construct(**SessionLimits().model_dump() | {"interim_interval_ms": 1e9})
"""Updates come with the messages, and what is stable in one stays."""
LATEST_MS = 100.0  # of audio after which a stream looks at it


@pytest.fixture(scope="module")
def speech(clips) -> np.ndarray:
    """Three clips with a pause after each, none of them whole blocks."""
    parts = []
    for clip, pause_seconds in zip(clips, (0.53, 1.0, 2.07), strict=False):
        parts += [clip.samples, np.zeros(int(pause_seconds * SAMPLE_RATE), np.int16)]
    return np.concatenate(parts)


def said(fp32, audio: np.ndarray, frame_ms: float, limits: SessionLimits) -> list[dict]:
    """All messages but updates, without how long they took."""
    simulation = Simulation(fp32.engine, fp32.tokenizer, limits, frame_ms=frame_ms, init={"silence_ms": 400})
    simulation.run(audio)
    messages = [message for _, message in simulation.messages if message["op"] != "interim"]
    return [{name: value for name, value in message.items() if name != "latency_ms"} for message in messages]


@pytest.fixture(scope="module")
def expected(fp32, speech: np.ndarray) -> list[dict]:
    return said(fp32, speech, 20.0, NO_UPDATES)


@pytest.mark.parametrize("frame_ms", LENGTHS_MS)
def test_turns_segments_and_words_do_not_depend_on_the_length_of_messages(fp32, speech, expected, frame_ms):
    assert said(fp32, speech, frame_ms, NO_UPDATES) == expected
    assert {"speech_started", "speech_stopped", "final"} <= {message["op"] for message in expected}


@pytest.mark.parametrize("frame_ms", [each for each in LENGTHS_MS if each <= LATEST_MS])
def test_updates_are_asked_for_when_they_are_due_however_short_the_messages(frame_ms):
    """Answers come at once, and say nothing that would put off the next."""
    limits, asked_at, now, requests = SessionLimits(interim_interval_ms=250), [], 0.0, []
    seat = SimulatedSeat(limits, Tokenizer(["", "", "", "▁word", "▁next"]), requests.append)
    session = native_session(seat, limits, lambda message: True)
    session.on_text('{"op":"init"}', now)
    noise = np.random.default_rng(0).integers(-8000, 8000, 6 * SAMPLE_RATE).astype(np.int16)
    noise[np.arange(len(noise)) // 1600 % 2 == 1] //= 8  # as syllables rise and fall
    for frame in frames_of(noise, frame_ms):
        now += len(frame) / SAMPLE_RATE
        session.on_audio(frame.tobytes(), now)
        if requests:
            asked_at.append(now)
            seat.deliver(Result(requests.pop(), (3, 4), (-0.1, -0.1, -0.1)), now)
    gaps_ms = 1000 * np.diff(asked_at)
    assert len(gaps_ms) > 10 and max(gaps_ms) <= limits.interim_interval_ms + max(frame_ms, 1.0)
