"""Audio that comes faster than anybody speaks waits for live speech."""

import json

import numpy as np

from benchmarks.harness.simulation import SimulatedSeat, native_session
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Priority, Request, Result
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits
from server.stream.pace import AHEAD_SECONDS, Pace
from server.stream.update_clock import PATIENT_SECONDS

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


class UnansweredClient:
    """A session of the native protocol whose engine answers when the test says so."""

    def __init__(self, **init: object):
        self.requests: list[Request] = []
        self.late_seconds: list[float] = []
        self.messages: list[dict] = []
        self.seat = SimulatedSeat(LIMITS, WORDS, self.requests.append, on_update=self.late_seconds.append)
        self.session = native_session(self.seat, LIMITS, lambda message: bool(self.messages.append(message)) or True)
        self.session.on_text(json.dumps({"op": "init"} | init), 0.0)
        self.now = 0.0

    def send(self, seconds: int, speed: float, audio: bytes = SECOND) -> None:
        for _ in range(seconds):
            self.now += 1 / speed
            self.session.on_audio(audio, self.now)

    def answer(self) -> None:
        """Answer the newest request."""
        self.seat.deliver(Result(self.requests[-1], tokens=(3,) * 5, log_probs=(-0.01,) * 5), self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.session.on_time(self.now)

    def answer_until(self, priority: Priority) -> None:
        while self.requests[-1].priority is not priority:
            self.answer()


def test_fast_audio_waits_no_longer_than_its_patience_and_asks_again_as_live_speech():
    client = UnansweredClient()
    client.send(90, 50.0)
    client.answer_until(Priority.FILE)
    asked = len(client.requests)
    client.wait(0.1)
    client.wait(PATIENT_SECONDS - 1)
    assert len(client.requests) == asked
    client.wait(2.0)
    assert len(client.requests) == asked + 1 and client.requests[-1].priority is Priority.INTERIM
    client.wait(0.1)
    client.wait(LIMITS.close_timeout_seconds + 1)
    assert client.messages[-1]["reason"] == "engine_failed", "live speech is answered in time, or given up"


def test_how_late_fast_audio_is_says_nothing_about_live_speech():
    client = UnansweredClient()
    client.send(90, 50.0)
    client.answer_until(Priority.FILE)
    known = len(client.late_seconds)
    client.answer()
    assert len(client.late_seconds) == known


def test_the_ends_of_turns_in_a_recording_are_awaited_by_nobody():
    quiet = bytes(len(SECOND))
    client = UnansweredClient(silence_ms=300, flush_turns=True)
    for _ in range(30):
        client.send(4, 50.0)
        client.send(1, 50.0, quiet)
    for _ in range(40):
        client.answer()
    assert {request.priority for request in client.requests[-30:]} == {Priority.FILE}
    client.session.on_text('{"op":"close"}', client.now)
    client.answer_until(Priority.FINAL)
    while client.session.state.value != "ended":
        client.answer()
    assert client.messages[-1]["op"] == "final"


def test_an_end_that_makes_progress_is_not_given_up():
    client = UnansweredClient()
    client.send(59, 50.0)
    client.session.on_text('{"op":"close"}', client.now)
    for _ in range(100):
        if client.session.state.value == "ended":
            break
        client.wait(LIMITS.close_timeout_seconds - 1)
        client.answer()
    assert client.messages[-1]["op"] == "final"
