"""Audio that comes faster than anybody speaks waits for live speech."""

import numpy as np

from benchmarks.harness.simulation import SimulatedSeat, native_session
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Priority, Request, Result
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits
from server.stream.update_clock import AHEAD_SECONDS, Pace

SECOND = (np.random.default_rng(0).standard_normal(SAMPLE_RATE) * 3000).astype(np.int16).tobytes()
LIMITS = SessionLimits(max_buffer_seconds=600.0)
WORDS = Tokenizer(["", "", "", "▁word"])


def priorities(seconds: float, speed: float, pause_seconds: float = 0.0) -> list[Priority]:
    """Priorities of the requests of a session that is closed after so much audio. Answers come at once.

    speed: times real time. pause_seconds: before the audio.
    """
    requests: list[Request] = []
    seat = SimulatedSeat(LIMITS, WORDS, requests.append)
    session = native_session(seat, LIMITS, lambda message: True)
    session.on_text('{"op":"init"}', 0.0)
    now, answered = pause_seconds, 0

    def answer() -> None:
        nonlocal answered
        while answered < len(requests):
            answered += 1
            seat.streams[-1].on_result(Result(requests[answered - 1], tokens=(3,) * 5, log_probs=(-0.01,) * 5), now)

    for _ in range(int(seconds)):
        now += 1 / speed
        session.on_audio(SECOND, now)
        answer()
    session.on_text('{"op":"close"}', now)
    answer()
    return [request.priority for request in requests]


def test_a_speaker_and_a_client_that_catches_up_are_live():
    for seconds, speed in ((180, 1.0), (AHEAD_SECONDS - 1, 50.0)):
        assert set(priorities(seconds, speed)) == {Priority.INTERIM, Priority.FINAL}


def test_audio_far_ahead_of_its_time_waits_as_a_recording_does_but_for_the_final():
    found = priorities(180, 50.0)
    begin = found.index(Priority.FILE)
    assert set(found[:begin]) == {Priority.INTERIM}
    assert set(found[begin:-1]) == {Priority.FILE} and found[-1] is Priority.FINAL


def test_a_client_that_has_caught_up_after_a_long_loss_is_live_again():
    pace, position = Pace(0.0), 0
    position += round(2 * AHEAD_SECONDS * SAMPLE_RATE)
    pace.reach(position, 1.0)
    assert pace.is_fast
    for second in range(2, 2 + round(AHEAD_SECONDS)):
        position += SAMPLE_RATE
        pace.reach(position, float(second))
    assert not pace.is_fast


def test_a_pause_is_no_leave_to_send_a_recording_at_once():
    assert Priority.FILE in priorities(2 * AHEAD_SECONDS, 50.0, pause_seconds=600.0)
