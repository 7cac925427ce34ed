"""One stream's life, driven exactly: no transport, no engine, no clock."""

import json
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.simulation import SimulatedSeat, native_session
from runtime.audio import SAMPLE_RATE, count_frames
from runtime.exceptions import EngineFailed, EngineStopped
from runtime.scheduler.requests import Priority, Request, Result, Timings
from runtime.tokenizer import Tokenizer
from server.sessions.session import SessionState
from server.settings import SessionLimits
from server.stream.edges import SHORT_LEADS
from server.stream.terms import Term, keyterms_of

LIMITS = SessionLimits(
    max_buffer_seconds=10,
    init_timeout_seconds=5,
    idle_timeout_seconds=30,
    close_timeout_seconds=20,
)
TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two", "▁three", "♪", "▁", *string.ascii_letters])
INIT = '{"op":"init","sid":"abc","sr":16000}'
CLOSE = '{"op":"close"}'


class Stream:
    """A session and everything it said."""

    def __init__(self, submit=None, **limits):
        self.messages: list[dict] = []
        self.requests: list[Request] = []
        self.late_seconds: list[float] = []
        self.now = 0.0
        self.drops = False
        self.answered: Request | None = None
        self.limits = LIMITS.model_copy(update=limits)
        self.seat = SimulatedSeat(self.limits, TOKENIZER, submit or self.requests.append, on_update=self.late_seconds.append)
        self.session = native_session(self.seat, self.limits, self._receive)

    def _receive(self, message: dict) -> bool:
        if self.drops and message["op"] == "interim":
            return False
        self.messages.append(message)
        return True

    @property
    def finished(self) -> int:
        return len(self.seat.ended)

    def init(self, **flags: bool | int) -> "Stream":
        self.text(json.dumps({"op": "init", "sid": "abc", "sr": 16_000} | flags))
        assert self.messages.pop() == {"op": "ready", "sid": "abc", "max_batch": 32, "replica": "r", "frame_ms": 20}
        return self

    def text(self, text: str) -> None:
        self.session.on_text(text, self.now)

    def sound(self, seconds: float, frame_ms: int = 20) -> None:
        """Loud and unsteady audio, as speech is, in real time."""
        samples = np.random.default_rng(0).integers(-8000, 8000, int(seconds * SAMPLE_RATE), dtype=np.int16)
        samples[np.arange(len(samples)) // 1600 % 2 == 1] //= 8
        step = SAMPLE_RATE * frame_ms // 1000
        for start in range(0, len(samples), step):
            self.now += frame_ms / 1000
            self.session.on_audio(samples[start : start + step].tobytes(), self.now)

    def quiet(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.session.on_audio(bytes(640), self.now)

    def answer(self, *tokens: int, log_prob: float = -0.1, error=None) -> None:
        request = self.requests[-1]
        frames = count_frames(len(request.clip.samples))
        first_frames = tuple(range(0, frames + 1, frames // len(tokens)))[: len(tokens) + 1] if request.align and tokens else None
        result = Result(request, tokens, (log_prob,) * len(tokens), error, first_frames=first_frames)
        self.answered = request
        self.seat.deliver(result, self.now)

    @property
    def error(self) -> dict:
        assert self.messages[-1]["op"] == "error" and self.finished == 1 and self.session.state is SessionState.ENDED
        return self.messages[-1]


def test_a_stream_from_init_to_final():
    stream = Stream().init()
    stream.sound(0.6)
    stream.answer(3, 4)
    assert stream.messages == [
        {"op": "interim", "sid": "abc", "seq": 0, "text": "one", "stable": 0, "audio_ms": 100, "latency_ms": 500.0}
    ]
    stream.text(CLOSE)
    assert stream.requests[-1].priority is Priority.FINAL and stream.requests[-1].draft == (3, 4)
    stream.now += 0.05
    stream.answer(3, 4)
    assert stream.messages[-1] == {
        "op": "final",
        "final": True,
        "sid": "abc",
        "text": "one two",
        "stable": 7,
        "audio_ms": 600,
        "latency_ms": 50.0,
        "segments": [{"text": "one two", "start_ms": 0, "end_ms": 600}],
    }
    assert stream.finished == 1


def test_one_interim_is_in_flight_at_most_and_audio_meanwhile_makes_the_next_longer():
    stream = Stream().init()
    stream.sound(3.0)
    assert len(stream.requests) == 1
    stream.answer(3)
    assert len(stream.requests) == 2
    assert len(stream.requests[1].clip.pcm) == 3 * SAMPLE_RATE


def test_interims_keep_their_interval():
    stream = Stream().init()
    asked_at = []
    for _ in range(100):
        stream.sound(0.02)
        if len(stream.requests) > len(asked_at):
            asked_at.append(stream.now)
            stream.answer(3)
    assert np.diff(asked_at) == pytest.approx(0.5, abs=0.021)


def test_an_update_says_how_late_the_engine_began_with_it():
    """Late is what it waited beyond its time: behind the update before, and then in the queue."""
    stream = Stream(interim_interval_ms=500).init()
    stream.sound(2.0)  # the first update is due, and asked for, after 0.1 s; the next one has been due since 0.6 s
    for queue_ms in (40.0, 70.0):
        request = stream.requests[-1]
        stream.seat.deliver(Result(request, (3, 4), (-0.1, -0.1), timings=Timings(queue_ms=queue_ms)), stream.now)
    assert stream.late_seconds == pytest.approx([0.04, 2.0 - 0.6 + 0.07], abs=0.03)


def test_the_backlog_is_audio_that_waits_and_no_quiet():
    stream = Stream().init()
    assert stream.seat.backlog_seconds == 0
    stream.sound(1.0)
    assert stream.seat.backlog_seconds == pytest.approx(1.0)
    stream.answer(3, 4)
    assert stream.seat.backlog_seconds == pytest.approx(0.9, abs=0.03), "the first update had the first 0.1 s"
    stream.quiet(1.0)
    while stream.requests[-1] is not stream.answered:
        stream.answer(3, 4)
    assert stream.seat.backlog_seconds == 0, "all that was said has been heard"
    stream.sound(0.4)
    assert stream.seat.backlog_seconds > 0


def test_an_interim_that_says_nothing_new_is_not_sent():
    stream = Stream().init()
    for _ in range(4):
        stream.sound(0.6)
        stream.answer(3)
    assert [message["text"] for message in stream.messages] == ["one"]


def test_words_the_model_does_not_believe_are_not_shown():
    stream = Stream().init()
    stream.sound(0.6)
    stream.answer(3, log_prob=-4.0)
    stream.sound(0.6)
    stream.answer(6, 6, 6)
    assert stream.messages == [], "a lone filler word, or notes only"


def test_close_takes_the_place_of_an_interim_in_flight():
    stream = Stream().init()
    stream.sound(1.0)
    interim = stream.requests[-1]
    stream.text(CLOSE)
    assert stream.requests[-1].priority is Priority.FINAL
    stream.seat.deliver(Result(interim, (5,), (-0.1,)), stream.now)
    assert stream.messages == [], "a late answer to the interim says nothing"
    stream.answer(3)
    assert stream.messages[-1]["text"] == "one"


def test_close_without_audio_gives_an_empty_final():
    stream = Stream().init()
    stream.text(CLOSE)
    assert stream.messages[-1]["op"] == "final" and stream.messages[-1]["text"] == ""
    assert stream.messages[-1]["segments"] == []


def test_the_tail_says_only_what_is_new_and_nothing_is_missing_when_an_interim_is_dropped():
    stream = Stream().init(tail=True)
    known, segments, offsets = "", [], []

    def take() -> None:
        nonlocal known
        for message in stream.messages:
            known = known[: message["offset"]] + message["text"]
            segments.extend(message["segments"])
            offsets.append(message["offset"])
            assert message["op"] != "interim" or message["stable"] <= len(known)
        stream.messages.clear()

    for number, tokens in enumerate([(3, 4), (3, 4, 5), (3, 4, 5, 3), (3, 4, 5, 3, 4), (3, 4, 5, 3, 4, 5)]):
        stream.drops = number in (1, 3)
        stream.sound(0.6)
        stream.answer(*tokens)
        take()
    stream.drops = False
    stream.text(CLOSE)
    stream.answer(3, 4, 5, 3, 4, 5, 3)
    final = stream.messages[-1]
    take()
    assert known == "one two three one two three one" and final["stable"] == len(known)
    assert offsets == sorted(offsets) and offsets[-1] > 0
    assert [segment["text"] for segment in segments] == [known]


def test_a_cut_through_speech_divides_words_and_text_without_loss():
    stream = Stream().init(words=True)
    for _ in range(40):
        stream.sound(0.6)
        request = stream.requests[-1]
        count = max(request.forced, min(int(request.clip.seconds * 2), request.max_tokens))
        tokens = (*request.draft[: request.forced], *((3 + index % 3) for index in range(request.forced, count)))
        stream.answer(*tokens)
    stream.text(CLOSE)
    while stream.session.state is not SessionState.ENDED:
        stream.answer(*stream.requests[-1].draft)
    final = stream.messages[-1]
    assert len(final["segments"]) >= 2
    assert " ".join(word["w"] for word in final["words"]) == final["text"]
    times = [time for word in final["words"] for time in (word["start_ms"], word["end_ms"])]
    assert times == sorted(times)
    ends = [0, *(segment["end_ms"] for segment in final["segments"])]
    assert [segment["start_ms"] for segment in final["segments"]] == ends[:-1], "no gap between segments of unbroken speech"


def test_the_times_of_words_are_in_the_final_and_its_segments():
    stream = Stream().init(words=True)
    stream.sound(1.0)
    assert not stream.requests[-1].align, "not with an interim"
    stream.text(CLOSE)
    assert stream.requests[-1].align
    stream.answer(3, 4)
    final = stream.messages[-1]
    assert [word["w"] for word in final["words"]] == ["one", "two"] and final["words"] == list(final["segments"][0]["words"])


@pytest.mark.parametrize("lost", [(), (3,)])
def test_a_final_that_loses_what_was_in_sight_is_asked_for_with_other_edges_and_at_last_with_it(lost):
    stream = Stream().init()
    for _ in range(2):
        stream.sound(0.6)
        stream.answer(3, 4, 5, 3, 4, 5, log_prob=-0.7)
    assert stream.messages[-1]["text"] == "one two three one two three" and stream.messages[-1]["stable"] == 0
    stream.sound(0.2)
    stream.text(CLOSE)
    leads = set()
    while not stream.requests[-1].forced:
        leads.add(stream.requests[-1].clip.quiet_before)
        stream.answer(*lost)
    again = stream.requests[-1]
    assert again.is_retry and again.priority is Priority.FINAL and again.draft[: again.forced] == (3, 4, 5, 3, 4, 5)
    assert len(leads) == len(SHORT_LEADS)
    stream.answer(3, 4, 5, 3, 4, 5, 3)
    assert stream.messages[-1]["text"] == "one two three one two three one" and stream.finished == 1


def test_of_several_doubted_finals_the_most_believed_is_kept():
    stream = Stream().init()
    stream.sound(0.6)
    stream.text(CLOSE)
    for tokens, log_prob in (((3,), -0.9), ((4,), -0.5), ((5,), -0.7)):
        stream.answer(*tokens, log_prob=log_prob)
    assert stream.messages[-1]["text"] == "two" and stream.finished == 1


def test_a_final_that_is_believed_is_asked_for_once():
    stream = Stream().init()
    stream.sound(0.6)
    stream.text(CLOSE)
    stream.answer(3)
    assert stream.messages[-1]["text"] == "one" and stream.finished == 1


def test_an_update_that_loses_its_words_in_quiet_is_not_taken_for_the_final():
    stream = Stream().init()
    for _ in range(2):
        stream.sound(0.6)
        stream.answer(3, 4, 5, 3, 4, 5, log_prob=-0.7)
    while len(stream.requests) == 2:
        stream.quiet(0.02)
    stream.quiet(0.5)
    stream.answer()
    stream.text(CLOSE)
    assert stream.requests[-1].priority is Priority.FINAL
    stream.answer()
    assert stream.requests[-1].is_retry
    stream.answer(3, 4, 5, 3, 4, 5)
    assert stream.messages[-1]["text"] == "one two three one two three"


def test_a_sound_in_the_last_moment_is_transcribed():
    stream = Stream().init()
    stream.sound(1.5)
    stream.answer(3, 4)
    stream.quiet(0.9)
    stream.answer(3, 4)
    asked = len(stream.requests)
    stream.sound(0.04)
    stream.text(CLOSE)
    assert len(stream.requests) == asked + 1 and stream.requests[-1].priority is Priority.FINAL


@pytest.mark.parametrize("name", ["words", "tail"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(name):
    stream = Stream()
    stream.text(json.dumps({"op": "init", name: "yes"}))
    assert stream.error["reason"] == "bad_message" and f"{name}: expected bool" in stream.error["message"]


def test_once_all_was_said_and_heard_twice_quiet_is_not_transcribed_again():
    stream = Stream().init()
    stream.sound(1.5)
    stream.answer(3, 4)
    for _ in range(2):
        stream.quiet(0.6)
        stream.answer(3, 4)
    stream.answer(3, 4)
    asked = len(stream.requests)
    stream.quiet(0.8)
    assert len(stream.requests) == asked and stream.messages[-1]["text"] == "one two"
    stream.text(CLOSE)
    assert len(stream.requests) == asked and stream.messages[-1]["op"] == "final", "nothing was left to transcribe"
    assert stream.messages[-1]["text"] == "one two"


def test_keyterms_are_of_every_request_and_may_change_while_it_streams():
    stream = Stream().init(keyterms=["Ocado", {"term": "Darcy", "boost": 3.5}])
    stream.sound(0.6)
    assert stream.requests[-1].keyterms == keyterms_of((Term("Ocado"), Term("Darcy", 3.5)), TOKENIZER)
    stream.text('{"op":"keyterms","keyterms":["Bennet"]}')
    stream.answer(3)
    stream.sound(0.6)
    assert stream.requests[-1].keyterms == keyterms_of((Term("Bennet"),), TOKENIZER)
    stream.text('{"op":"keyterms"}')
    stream.answer(3, 4)
    stream.text(CLOSE)
    assert stream.requests[-1].keyterms is None
    assert stream.seat.changes == 2


BAD_MESSAGES = {
    "not JSON": ("bad_message", "{op: init}"),
    "not an object": ("bad_message", "[1, 2]"),
    "deeply nested": ("bad_message", "[" * 4000),
    "unknown op": ("unknown_op", '{"op":"start"}'),
    "no op": ("unknown_op", "{}"),
    "too long": ("message_too_large", '{"op":"' + "x" * 40_000 + '"}'),
    "too low a rate": ("unsupported_sample_rate", '{"op":"init","sid":"a","sr":7999}'),
    "rate as text": ("unsupported_sample_rate", '{"op":"init","sid":"a","sr":"16000"}'),
    "sid no string": ("bad_message", '{"op":"init","sid":7,"sr":16000}'),
    "sid too long": ("bad_message", '{"op":"init","sid":"' + "s" * 65 + '","sr":16000}'),
    "close before init": ("not_initialised", CLOSE),
    "keyterms before init": ("not_initialised", '{"op":"keyterms","keyterms":["a"]}'),
    "keyterms no list": ("bad_message", '{"op":"init","keyterms":"a"}'),
    "a keyterm no text": ("bad_message", '{"op":"init","keyterms":[5]}'),
    "a keyterm without its term": ("bad_message", '{"op":"init","keyterms":[{"boost":2}]}'),
    "a boost below zero": ("bad_message", '{"op":"init","keyterms":[{"term":"a","boost":-1}]}'),
    "a boost too high": ("bad_message", '{"op":"init","keyterms":[{"term":"a","boost":1e9}]}'),
    "a keyterm too long": ("invalid_value", '{"op":"init","keyterms":["' + "x" * 101 + '"]}'),
    "a keyterm with a control character": ("invalid_value", '{"op":"init","keyterms":["a\\u0000b"]}'),
    "too many keyterms": ("invalid_value", json.dumps({"op": "init", "keyterms": [f"term {each}" for each in range(201)]})),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_bad_message_is_answered_by_name_and_ends_the_stream(name):
    reason, message = BAD_MESSAGES[name]
    stream = Stream()
    stream.text(message)
    assert stream.error["reason"] == reason and len(stream.error["message"]) > 10
    json.dumps(stream.error)


def test_bad_audio_is_answered_by_name():
    early = Stream()
    early.session.on_audio(b"\0\0", 0.0)
    assert early.error["reason"] == "not_initialised"
    odd = Stream().init()
    odd.session.on_audio(b"\0\0\0", 0.0)
    assert odd.error["reason"] == "bad_audio" and "3 bytes" in odd.error["message"]
    large = Stream().init()
    large.session.on_audio(bytes(400_000), 0.0)
    assert large.error["reason"] == "message_too_large"


def test_init_twice_and_audio_after_close_are_refused():
    twice = Stream().init()
    twice.text(INIT)
    assert twice.error["reason"] == "already_initialised"
    late = Stream().init()
    late.sound(0.2)
    late.text(CLOSE)
    late.session.on_audio(b"\0\0", late.now)
    assert late.error["reason"] == "closing"


def test_what_crosses_with_the_servers_own_finish_is_no_mistake():
    stream = Stream().init()
    stream.sound(0.6)
    stream.session.finish(stream.now)
    stream.session.on_audio(bytes(640), stream.now)
    stream.text(CLOSE)
    stream.answer(3, 4)
    assert stream.messages[-1]["op"] == "final" and stream.messages[-1]["audio_ms"] == 600, "what was not heard is not claimed"


def test_after_the_end_nothing_is_said_any_more():
    stream = Stream().init()
    stream.text("nonsense")
    count = len(stream.messages)
    stream.text(INIT)
    stream.session.on_audio(b"\0", 1.0)
    stream.session.on_time(1e6)
    stream.session.finish(1.0)
    assert len(stream.messages) == count and stream.finished == 1


def test_a_client_that_does_not_say_init_is_dropped():
    stream = Stream()
    stream.session.on_time(4.9)
    assert stream.messages == []
    stream.session.on_time(5.1)
    assert stream.error["reason"] == "init_timeout"


def test_an_idle_session_is_dropped_with_its_text():
    stream = Stream().init()
    stream.sound(0.6)
    stream.answer(3)
    stream.session.on_time(stream.now + 29)
    stream.session.on_time(stream.now + 31)
    assert stream.error["reason"] == "idle_timeout"


def test_a_client_that_outruns_the_engine_is_told_and_keeps_what_was_committed():
    stream = Stream(max_buffer_seconds=20).init()
    stream.sound(13.0, frame_ms=500)
    stream.answer(3)
    assert stream.requests[-1].clip.seconds > 9, "the segment that ends before 12 s"
    stream.answer(3, 4)
    committed = stream.messages[-1]["text"]
    stream.sound(25.0, frame_ms=500)
    assert stream.error["reason"] == "buffer_overflow"
    assert stream.error["text"] == committed[: stream.messages[-2]["stable"]] == "one two"


def test_an_engine_failure_reaches_the_client_by_name():
    failed = Stream().init()
    failed.sound(0.6)
    failed.answer(error=EngineFailed("out of memory"))
    assert failed.error["reason"] == "engine_failed" and "out of memory" in failed.error["message"]

    def refuse(request):
        raise EngineStopped("the engine has stopped")

    stopped = Stream(submit=refuse).init()
    stopped.sound(0.6)
    assert stopped.error["reason"] == "engine_failed"


def test_a_final_that_never_comes_is_given_up():
    stream = Stream().init()
    stream.sound(1.0)
    stream.text(CLOSE)
    stream.session.on_time(stream.now + 21)
    assert stream.error["reason"] == "engine_failed"


def test_stable_text_is_forced_on_every_later_request():
    stream = Stream().init()
    for _ in range(3):
        stream.sound(0.6)
        stream.answer(3, 4, 5)
    assert stream.messages[-1]["stable"] == len("one two")
    stream.sound(0.6)
    assert stream.requests[-1].draft == (3, 4, 5) and stream.requests[-1].forced == 2


FLUSH = '{"op":"flush"}'


def test_a_flush_closes_what_was_said_and_the_stream_goes_on():
    stream = Stream().init()
    stream.sound(1.0)
    stream.text(FLUSH)
    assert stream.requests[-1].priority is Priority.FINAL and len(stream.requests[-1].clip.pcm) == SAMPLE_RATE
    stream.sound(0.5)
    stream.answer(3, 4)
    flushed = stream.messages[-1]
    assert (flushed["op"], flushed["text"], flushed["stable"], flushed["audio_ms"]) == ("flushed", "one two", 7, 1000)
    stream.sound(0.5)
    stream.text(CLOSE)
    assert len(stream.requests[-1].clip.pcm) == SAMPLE_RATE, "what came during the flush and behind it"
    stream.answer(5)
    final = stream.messages[-1]
    assert [segment["text"] for segment in final["segments"]] == ["one two", "three"] and final["text"] == "one two three"


def test_a_flush_of_nothing_is_answered_at_once():
    stream = Stream().init()
    stream.text(FLUSH)
    assert stream.messages[-1]["op"] == "flushed" and stream.messages[-1]["text"] == "" and not stream.requests


def test_a_flush_in_the_middle_of_a_level_loses_no_sample():
    stream = Stream().init()
    stream.sound(1.0)
    stream.session.on_audio(bytes(2 * 123), stream.now)
    stream.text(FLUSH)
    stream.answer(3)
    stream.sound(1.0)
    stream.text(CLOSE)
    assert len(stream.requests[-1].clip.pcm) == SAMPLE_RATE
    stream.answer(4)
    assert [segment["end_ms"] for segment in stream.messages[-1]["segments"]] == [1007, 2007]


def test_a_flush_that_the_engine_does_not_answer_ends_the_stream():
    stream = Stream().init()
    stream.sound(1.0)
    stream.text(FLUSH)
    stream.session.on_time(stream.now + LIMITS.close_timeout_seconds + 1)
    assert stream.error["reason"] == "engine_failed"


def test_turns_are_told_and_flushed_where_that_is_asked_for():
    stream = Stream().init(silence_ms=500, flush_turns=True)
    stream.sound(1.0)
    stream.answer(3)
    stream.quiet(0.8)
    stream.answer(3)
    stream.quiet(0.2)
    told = [message for message in stream.messages if message["op"] != "interim"]
    assert [message["op"] for message in told] == ["speech_started", "speech_stopped", "flushed"]
    assert told[0]["at_ms"] == 0 and told[1]["at_ms"] == 1000 and told[2]["text"] == "one"


def test_a_turn_ends_with_its_probability_before_the_longest_silence():
    stream = Stream().init(silence_ms=5000, turn_threshold=0.5, turns=True)
    stream.sound(1.0)
    stream.answer(3)
    stream.quiet(0.3)
    stream.answer(3)
    stream.quiet(0.5)
    told = [message for message in stream.messages if message["op"] != "interim"]
    pauses = [message for message in told if message["op"] == "turn"]
    assert [message["op"] for message in told] == ["speech_started", *["turn"] * len(pauses), "speech_stopped"]
    assert [message["silence_ms"] for message in pauses] == [200 + 100 * number for number in range(len(pauses))]
    assert all(message["at_ms"] == 1000 and 0 < message["probability"] < 0.6 for message in pauses)
    assert told[-1]["at_ms"] == 1000 and 0.5 <= told[-1]["probability"] < 0.7


def test_what_was_said_is_asked_for_as_soon_as_a_pause_begins_and_once():
    """An update would be due half a second after the last: too late to weigh the text of a pause."""
    stream = Stream().init(silence_ms=5000, turn_threshold=0.99)
    stream.sound(0.6)
    stream.answer(3)
    stream.quiet(0.1)
    stream.answer(3)
    before = len(stream.requests)
    stream.quiet(0.14)
    assert len(stream.requests) == before + 1
    stream.answer(3)
    stream.quiet(0.2)
    assert len(stream.requests) == before + 1, "that text covers the pause"


@pytest.mark.parametrize(
    "options",
    [
        {"turn_threshold": 0.5},
        {"turns": True},
        {"turn_threshold": 0.1, "silence_ms": 500},
        {"turn_threshold": 1, "silence_ms": 500},
    ],
)
def test_thresholds_that_cannot_be_are_refused(options):
    stream = Stream()
    stream.text(json.dumps({"op": "init"} | options))
    assert stream.error["reason"] == "bad_message" and next(iter(options)) in stream.error["message"]


@pytest.mark.parametrize(
    "options", [{"silence_ms": 99}, {"silence_ms": 10_001}, {"silence_ms": True}, {"silence_ms": "500"}, {"flush_turns": True}]
)
def test_turns_that_cannot_be_told_are_refused(options):
    stream = Stream()
    stream.text(json.dumps({"op": "init"} | options))
    assert stream.error["reason"] == "bad_message"


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_other_rates_are_heard_at_their_speed(rate):
    stream = Stream()
    stream.text(json.dumps({"op": "init", "sr": rate}))
    samples = np.random.default_rng(0).integers(-8000, 8000, rate, dtype=np.int16)
    for start in range(0, rate, rate // 50):
        stream.now += 0.02
        stream.session.on_audio(samples[start : start + rate // 50].tobytes(), stream.now)
    stream.text(CLOSE)
    stream.answer(3)
    assert stream.messages[-1]["audio_ms"] == pytest.approx(1000, abs=2)


def answer_all(stream: Stream) -> None:
    while stream.requests and stream.requests[-1] is not stream.answered:
        request = stream.requests[-1]
        stream.answer(*request.draft[: request.forced], 3)


@given(st.lists(st.sampled_from(["sound", "quiet", "flush", "answer"]), max_size=30))
def test_what_a_flush_says_never_changes(steps):
    stream = Stream(max_buffer_seconds=100).init()
    for step in steps:
        match step:
            case "sound":
                stream.sound(0.5)
            case "quiet":
                stream.quiet(1.3)
            case "flush":
                stream.text(FLUSH)
            case "answer":
                answer_all(stream)
    stream.text(CLOSE)
    answer_all(stream)
    told = [message for message in stream.messages if message["op"] == "flushed"]
    texts = [*(message["text"] for message in told), stream.messages[-1]["text"]]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False))
    assert [message["audio_ms"] for message in told] == sorted(message["audio_ms"] for message in told)
    ends = [0, *(segment["end_ms"] for segment in stream.messages[-1]["segments"])]
    assert ends == sorted(ends)


def test_a_server_that_is_silent_says_that_it_is_there_to_whoever_asked():
    stream = Stream().init(pulse=True)
    for _ in range(33):
        stream.now += 0.1
        stream.session.on_time(stream.now)
    assert [message["op"] for message in stream.messages] == ["pulse"] * 4
    assert stream.messages[-1] == {"op": "pulse", "sid": "abc", "audio_ms": 0}
    silent = Stream().init()
    silent.now += 5
    silent.session.on_time(silent.now)
    assert silent.messages == []


def test_a_pulse_says_from_where_on_audio_is_worth_keeping():
    """Silence is closed too: a client that goes on elsewhere need not send an hour of it."""
    stream = Stream().init(pulse=True, from_ms=1000)
    for _ in range(4):
        stream.quiet(3.2)
        if stream.requests and stream.requests[-1] is not stream.answered:
            stream.answer()
    for _ in range(12):
        stream.now += 0.1
        stream.session.on_time(stream.now)
    pulse = stream.messages[-1]
    assert pulse["op"] == "pulse" and 1000 + 9_000 < pulse["audio_ms"] <= 1000 + 12_800


def test_empty_messages_do_not_keep_a_session_alive():
    stream = Stream().init()
    for _ in range(40):
        stream.now += 1.0
        stream.session.on_audio(b"", stream.now)
        stream.session.on_time(stream.now)
    assert stream.error["reason"] == "idle_timeout"


@given(from_ms=st.integers(0, 10**9), words=st.booleans())
def test_a_stream_that_goes_on_differs_in_its_times_alone(from_ms, words):
    def play(stream: Stream) -> list[dict]:
        stream.sound(0.6)
        stream.answer(3, 4)
        stream.text('{"op":"flush"}')
        stream.answer(3, 4)
        stream.sound(0.4)
        stream.text(CLOSE)
        while stream.requests[-1] is not stream.answered:
            stream.answer(3)
        return stream.messages

    def moved(value, name=""):
        if isinstance(value, dict):
            return {name: moved(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [moved(each) for each in value]
        return value + from_ms if name in ("audio_ms", "at_ms", "start_ms", "end_ms") else value

    options = {"silence_ms": 5000, "words": words}
    assert play(Stream().init(from_ms=from_ms, **options)) == moved(play(Stream().init(**options)))


@pytest.mark.parametrize("from_ms", [-1, 1.5, "0", 2**60])
def test_where_a_stream_goes_on_is_a_whole_number(from_ms):
    stream = Stream()
    stream.text(json.dumps({"op": "init", "from_ms": from_ms}))
    assert stream.error["reason"] == "bad_message" and "from_ms" in stream.error["message"]


def test_a_request_that_is_never_answered_fails_the_stream_by_name():
    stream = Stream().init()
    stream.sound(0.6)
    for _ in range(23):
        stream.now += 1.0
        stream.session.on_time(stream.now)
    assert stream.error["reason"] == "engine_failed" and "not answered" in stream.error["message"]


def test_a_pulse_never_covers_a_segment_that_was_not_told():
    """Whoever goes on from there would lose its words."""
    stream = Stream().init(pulse=True, tail=True)
    stream.sound(0.6)
    for _ in range(3):
        stream.answer(3, 4)
        stream.sound(0.6)
    stream.drops = True
    stream.quiet(4.0)
    while stream.requests[-1] is not stream.answered:
        stream.answer(*((3, 4) if stream.requests[-1].draft else ()))
    for _ in range(15):
        stream.now += 0.1
        stream.session.on_time(stream.now)
    pulses = [message for message in stream.messages if message["op"] == "pulse"]
    told = [segment for message in stream.messages for segment in message.get("segments", ())]
    assert pulses and not told and {pulse["audio_ms"] for pulse in pulses} == {0}


def test_a_segment_that_closes_is_told_also_where_its_words_were_stable_before():
    stream = Stream().init(pulse=True, tail=True)
    for _ in range(4):
        stream.sound(0.6)
        stream.answer(3, 4)
    stream.quiet(4.0)
    while stream.requests[-1] is not stream.answered:
        stream.answer(*((3, 4) if stream.requests[-1].draft else ()))
    told = [segment["text"] for message in stream.messages for segment in message.get("segments", ())]
    assert told == ["one two"]
