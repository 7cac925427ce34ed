"""Sessions of every dialect under whatever clients, engines and servers may do, in any order."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from benchmarks.harness.simulation import SimulatedSeat, native_session
from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineFailed
from runtime.scheduler.requests import Request, Result
from runtime.tokenizer import Tokenizer
from server.apis.deepgram import query as deepgram
from server.apis.deepgram.session import DeepgramSession
from server.apis.openai.messages import Configuration
from server.apis.openai.session import RealtimeSession
from server.apis.wyoming import messages as wyoming
from server.apis.wyoming.session import UtteranceSession
from server.errors import ClientError, Code, ServerError
from server.sessions.session import Session
from server.settings import SessionLimits

LIMITS = SessionLimits(max_buffer_seconds=10, init_timeout_seconds=5, idle_timeout_seconds=30, close_timeout_seconds=20)
TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two", "▁three", "▁four"])
WORDS = st.lists(st.integers(3, 6), max_size=6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SETTINGS = settings(max_examples=60, stateful_step_count=50, deadline=None)


def changed(*messages: Mapping[str, Any]) -> st.SearchStrategy[str]:
    """Messages of the protocol, whole or with a field that holds anything, and what is none."""
    names = sorted({name for message in messages for name in message})
    spoilt = st.builds(
        lambda message, name, value: {**message, name: value}, st.sampled_from(messages), st.sampled_from(names), ANYTHING
    )
    unlikely = st.one_of(spoilt.map(json.dumps), ANYTHING.map(json.dumps), st.text(max_size=20))
    return st.integers(0, 9).flatmap(lambda number: st.sampled_from(messages).map(json.dumps) if number else unlikely)


class Conversation(RuleBasedStateMachine):
    """A client, a session, and an engine that answers late, wrongly or not at all."""

    messages: st.SearchStrategy[str] = st.nothing()

    def __init__(self) -> None:
        super().__init__()
        self.now, self.said = 0.0, list[dict[str, Any]]()
        self.asked: list[Request] = []
        self.seat = SimulatedSeat(LIMITS, TOKENIZER, self.asked.append, "a")
        self.session = self.open(self.seat)

    @property
    def ends(self) -> int:
        return len(self.seat.ended)

    def open(self, seat: SimulatedSeat) -> Session:
        raise NotImplementedError

    def take(self, message: Any) -> bool:
        assert not self.ends, "nothing is said behind the end"
        self.said.append(json.loads(message.encode()))
        return True

    @initialize()
    def start(self) -> None:
        """What a client that knows the protocol begins with."""

    @rule(data=st.data())
    def say_something(self, data: st.DataObject) -> None:
        self.session.on_text(data.draw(self.messages), self.now)

    @rule(seconds=st.sampled_from([0.02, 0.3, 1.5]), loudness=st.sampled_from([1, 8000]))
    def speak(self, seconds: float, loudness: int) -> None:
        samples = np.random.default_rng(0).integers(-loudness, loudness, int(seconds * SAMPLE_RATE), dtype=np.int16)
        samples[np.arange(len(samples)) // 1600 % 2 == 1] //= 8
        self.now += seconds
        self.hear(samples.tobytes())

    def hear(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)

    @rule(noise=st.binary(max_size=9))
    def send_scraps(self, noise: bytes) -> None:
        self.session.on_audio(noise, self.now)

    @precondition(lambda self: self.asked)
    @rule(words=WORDS)
    def answer(self, words: list[int]) -> None:
        request = self.asked.pop(0)
        tokens = (*request.draft[: request.forced], *words)
        frames = tuple(range(0, 10 * len(tokens) + 1, 10)) if request.align else None
        self.seat.deliver(Result(request, tokens, (-0.01,) * len(tokens), first_frames=frames), self.now)

    @precondition(lambda self: self.asked)
    @rule()
    def break_down(self) -> None:
        request = self.asked.pop(0)
        self.seat.deliver(Result(request, error=EngineFailed("it broke")), self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.session.on_time(self.now)

    @rule(way=st.integers(0, 40))
    def come_to_an_end(self, way: int) -> None:
        """Mostly not, or little would ever be said."""
        match way:
            case 0:
                self.session.fail(ServerError(Code.SLOW_READER, "of the server"))
            case 1:
                self.session.finish(self.now)
            case 2:
                self.session.drop()

    @invariant()
    def it_ends_once(self) -> None:
        assert self.ends <= 1


class Native(Conversation):
    messages = changed(
        {"op": "init", "sid": "a"},
        {"op": "init", "sid": "a", "sr": 16_000, "words": True, "tail": True, "pulse": True},
        {"op": "flush"},
        {"op": "close"},
    )

    def open(self, seat: SimulatedSeat) -> Session:
        return native_session(seat, LIMITS, self.take_fields)

    def take_fields(self, message: dict[str, Any]) -> bool:
        assert not self.ends, "nothing is said behind the end"
        self.said.append(message)
        return True

    @initialize()
    def start(self) -> None:
        self.session.on_text('{"op":"init","sid":"a","moving":true}', self.now)

    @rule()
    def move(self) -> None:
        self.session.move(10.0)

    @invariant()
    def what_is_stable_stays(self) -> None:
        stable = ""
        for message in self.said:
            if message["op"] in ("interim", "flushed", "final"):
                assert message["text"].startswith(stable)
                stable = message["text"][: message["stable"]]

    @invariant()
    def a_final_or_an_error_is_the_last_word(self) -> None:
        last = [number for number, message in enumerate(self.said) if message["op"] in ("final", "error")]
        assert last in ([], [len(self.said) - 1])


class Realtime(Conversation):
    has_track = False
    messages = changed(
        {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}}},
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}},
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}},
        {"type": "session.update", "model": "x"},
        {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}},
        {"type": "input_audio_buffer.append", "audio": "AAAA"},
        {"type": "input_audio_buffer.commit", "final": True},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
        {"type": "input_audio_buffer.done"},
    )

    def open(self, seat: SimulatedSeat) -> Session:
        return RealtimeSession(seat, 30.0, Configuration("moonshine-base"), self.take, has_track=self.has_track)

    def hear(self, pcm: bytes) -> None:
        for start in range(0, len(pcm), 16_000):
            audio = base64.b64encode(pcm[start : start + 16_000]).decode()
            self.session.on_text(json.dumps({"type": "input_audio_buffer.append", "audio": audio}), self.now)

    @invariant()
    def deltas_are_the_completed_text(self) -> None:
        told: dict[str, str] = {}
        for event in self.said:
            if event["type"].endswith("input_audio_transcription.delta"):
                told[event["item_id"]] = told.get(event["item_id"], "") + event["delta"]
            elif event["type"].endswith("input_audio_transcription.completed") and "item_id" in event:
                assert told.get(event["item_id"], event["transcript"]) == event["transcript"]


class RealtimeCall(Realtime):
    has_track = True
    hear = Conversation.hear


class Deepgram(Conversation):
    messages = changed(
        {"type": "KeepAlive"}, {"type": "Finalize"}, {"type": "CloseStream"}, {"type": "Configure", "thresholds": {}}
    )

    def open(self, seat: SimulatedSeat) -> Session:
        query = {"encoding": "linear16", "sample_rate": "16000", "interim_results": "true", "vad_events": "true"}
        parameters = deepgram.parse([*(query | {"endpointing": "300"}).items()], "moonshine-base")
        return DeepgramSession(seat, parameters, "moonshine-base", self.take)

    @invariant()
    def finals_follow_each_other(self) -> None:
        at = 0.0
        for message in self.said:
            if message["type"] == "Results":
                assert message["start"] == pytest.approx(at), "neither a gap nor what was final already"
                at = message["start"] + message["duration"] if message["is_final"] else at


class Wyoming(Conversation):
    """Its texts are frames, which the transport takes apart."""

    messages = st.nothing()

    def open(self, seat: SimulatedSeat) -> Session:
        return UtteranceSession(seat, wyoming.audio_format({}), 30.0, "en", self.take)

    @rule(data=ANYTHING, value=ANYTHING, name=st.sampled_from(["rate", "width", "channels", "language"]))
    def say_something(self, data: object, value: object, name: str) -> None:
        for text in (json.dumps(data), json.dumps({"type": "audio-start", "data": {name: value}}), json.dumps({name: value})):
            try:
                read = wyoming.Header.parse(text.encode()).with_data(b"")
                wyoming.audio_format(read)
                wyoming.check_transcribe(read, "moonshine-base")
            except ClientError:
                pass

    @precondition(lambda self: self.said)
    @rule()
    def stop(self) -> None:
        self.session.finish(self.now)

    @invariant()
    def chunks_are_the_transcript(self) -> None:
        chunks = "".join(message["data"]["text"] for message in self.said if message["type"] == "transcript-chunk")
        for message in self.said:
            if message["type"] == "transcript" and chunks:
                assert chunks == message["data"]["text"]


@pytest.mark.parametrize("machine", [Native, Realtime, RealtimeCall, Deepgram, Wyoming])
def test_whatever_happens_a_session_keeps_its_promises(machine):
    run_state_machine_as_test(machine, settings=SETTINGS)
