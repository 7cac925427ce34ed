"""Deepgram's Flux: turns without I/O, and its own SDK over a real connection."""

import asyncio
import json

import numpy as np
import pytest
from deepgram.core.events import EventType
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from server.apis.deepgram import flux_query as flux
from server.apis.deepgram.flux_session import FluxSession
from server.errors import ClientError
from server.stream.stream import Judge, judge_nothing
from server.stream.terms import Term, keyterms_of
from server.stream.turn_end import probability_of_end
from tests.conftest import RunningServer, Speech
from tests.server.apis.deepgram.test_deepgram import TOKENIZER, client_of
from tests.server.apis.scripted_client import ScriptedClient

QUERY = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": "16000"}


class Client(ScriptedClient):
    """A client of Flux."""

    def __init__(self, judge: Judge = judge_nothing, **query: str):
        super().__init__(TOKENIZER, judge)
        parameters = flux.parse([*(QUERY | query).items()], "moonshine-base")
        self.session = FluxSession(self.seat, parameters, "moonshine-base", self.take)

    def send_audio(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)

    def text(self, kind: str, **fields) -> None:
        self.session.on_text(json.dumps({"type": kind} | fields), self.now)

    @property
    def turns(self) -> list[dict]:
        return [message for message in self.messages if message["type"] == "TurnInfo"]

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in self.turns]


def test_a_turn_from_its_start_to_its_end():
    client = Client()
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(1.0)
    client.answer_all()
    client.quiet(1.0)
    client.answer_all()
    assert client.messages[0]["type"] == "Connected" and client.messages[0]["turn_detection"] == "silence, text"
    assert client.events[0] == "StartOfTurn" and client.events[-1] == "EndOfTurn"
    end = client.turns[-1]
    assert end["trigger"] == "model" and end["turn_index"] == 0 and end["transcript"].startswith("one")
    assert end["transcript"] == " ".join(word["word"] for word in end["words"])
    assert all(0 <= word["start"] <= word["end"] for word in end["words"])
    assert [message["sequence_id"] for message in client.messages] == list(range(len(client.messages)))
    assert len({message["request_id"] for message in client.messages}) == 1
    client.sound(1.0)
    client.answer(3)
    client.sound(0.6)
    client.answer(3, 4)
    assert client.turns[-1]["turn_index"] == 1 and client.turns[-1]["audio_window_start"] >= end["audio_window_end"] - 1e-6


def test_the_sound_of_a_pause_moves_the_end_of_the_turn():
    """The judge of the test answers at once, once for each pause, with the newest audio before it."""
    judged: list[int] = []

    def silence_until_the_end(probability: float) -> float:
        client = Client(lambda samples, answer: (judged.append(len(samples)), answer(probability)))
        client.sound(1.0)
        client.answer(3, 4)
        client.quiet(2.0)
        client.answer_all()
        client.quiet(0.1)
        return client.turns[-1]["audio_window_end"] if client.events[-1] == "EndOfTurn" else np.inf

    over, unsure, goes_on = map(silence_until_the_end, (0.99, 0.5, 0.01))
    assert over < unsure < goes_on < np.inf
    assert judged == [int(1.2 * SAMPLE_RATE)] * 3


def test_an_eager_end_is_taken_back_where_the_speaker_goes_on():
    client = Client(eager_eot_threshold="0.3", eot_threshold="1")
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(1.2)
    client.answer_all()
    client.quiet(0.4)
    assert client.events[-1] == "EagerEndOfTurn"
    client.sound(0.5)
    assert client.events[-1] == "TurnResumed" and client.turns[-1]["turn_index"] == 0


def test_a_turn_ends_by_its_timeout_by_force_and_with_the_stream():
    client = Client(eot_threshold="1", eot_timeout_ms="600")
    client.sound(1.0)
    client.answer(3)
    client.quiet(1.0)
    client.answer_all()
    client.sound(1.0)
    client.answer(3)
    client.sound(0.6)
    client.answer(3, 4)
    client.text("ForceEndTurn")
    client.answer_all()
    client.sound(0.6)
    client.answer(3)
    client.text("CloseStream")
    client.answer_all()
    ends = [(turn["turn_index"], turn["trigger"]) for turn in client.turns if turn["event"] == "EndOfTurn"]
    assert ends == [(0, "timeout"), (1, "manual"), (2, "manual")] and client.ended == 1
    count = len(client.messages)
    client.sound(0.2)
    assert len(client.messages) == count, "audio after the end is nothing"


def test_force_in_silence_ends_no_turn():
    client = Client()
    client.text("ForceEndTurn")
    client.quiet(0.5)
    client.text("ForceEndTurn")
    while client.answered < len(client.requests):
        client.answer()
    assert not client.turns and not client.ended


def test_a_turn_whose_words_were_none_ends_all_the_same():
    """A cough: the interim has a word, the final none."""
    client = Client()
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(1.0)
    while client.answered < len(client.requests):
        client.answer()
    client.sound(1.0)
    client.answer(4)
    client.sound(0.6)
    client.answer(4, 5)
    assert client.events[:3] == ["StartOfTurn", "EndOfTurn", "StartOfTurn"]
    assert [turn["turn_index"] for turn in client.turns[:3]] == [0, 0, 1] and client.turns[1]["transcript"] == ""


def test_speech_that_comes_and_goes_while_a_turn_is_being_ended_is_a_turn_of_its_own():
    client = Client(eot_timeout_ms="1000")
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(0.8)
    client.sound(0.4)
    client.quiet(0.3)
    for _ in range(5):
        client.answer_all()
        client.quiet(0.5)
    ends = [turn["turn_index"] for turn in client.turns if turn["event"] == "EndOfTurn"]
    assert ends == [0, 1] and client.events[-1] == "EndOfTurn"


def test_speech_that_no_level_shows_ends_with_its_timeout():
    client = Client(eot_threshold="1", eot_timeout_ms="1000")
    for _ in range(10):
        client.sound(0.6, loudness=60)
        if client.answered < len(client.requests):
            client.answer(3, 4)
    for _ in range(8):
        client.quiet(0.5)
        while client.answered < len(client.requests):
            request = client.requests[-1]
            client.answer(*request.draft[: request.forced])
    assert not client.turns or client.events[-1] == "EndOfTurn"


def test_a_threshold_of_one_is_never_reached():
    client = Client(eot_threshold="1", eot_timeout_ms="60000")
    client.sound(1.0)
    client.answer(3)
    client.quiet(30.0)
    client.answer_all()
    assert "EndOfTurn" not in client.events


@pytest.mark.parametrize("samples", [7, 100, 1024, 8000])
def test_turns_end_at_their_time_however_audio_is_cut(samples):
    """Parts of a millisecond add up."""
    client = Client(eot_threshold="1", eot_timeout_ms="1000")
    sound = np.random.default_rng(0).integers(-8000, 8000, SAMPLE_RATE, dtype=np.int16)
    sound[np.arange(len(sound)) // 1600 % 2 == 1] //= 8
    audio = np.concatenate([sound, np.zeros(SAMPLE_RATE * 3 // 2, np.int16), sound, np.zeros(SAMPLE_RATE * 3 // 2, np.int16)])
    for start in range(0, len(audio), samples):
        client.now += samples / SAMPLE_RATE
        client.send_audio(audio[start : start + samples].tobytes())
        client.answer_all()
    ends = [turn for turn in client.turns if turn["event"] == "EndOfTurn"]
    assert [turn["trigger"] for turn in ends] == ["timeout", "timeout"]


def test_an_update_that_was_dropped_is_said_with_the_next_one():
    client = Client()
    client.sound(1.0)
    client.answer(3)
    keeps, client.drops = client.take, True
    client.session._send = lambda message: False if message.fields.get("event") == "Update" and client.drops else keeps(message)
    client.sound(0.6)
    client.answer(3, 4)
    client.sound(0.6)
    client.answer(3, 4, 5)
    client.drops = False
    client.sound(0.6)
    client.answer(3, 4, 5)
    assert client.events[-1] == "Update" and client.turns[-1]["transcript"].startswith("one two")


def test_force_before_any_audio_is_nothing():
    client = Client()
    client.text("ForceEndTurn")
    client.sound(1.0)
    client.answer(3, 4)
    assert client.events == ["StartOfTurn"]


def test_a_turn_ends_also_where_its_text_was_whole_before_the_silence():
    """No update comes then, for nothing in the text changes."""
    client = Client(eot_timeout_ms="60000")
    for _ in range(3):
        client.sound(0.6)
        client.answer(3, 4)
    for _ in range(20):
        client.quiet(0.1)
        while client.answered < len(client.requests):
            client.answer(3, 4)
    assert client.events[-1] == "EndOfTurn" and client.turns[-1]["trigger"] == "model"


def test_an_idle_stream_is_completed_and_closed_as_deepgram_does():
    client = Client()
    client.sound(1.0)
    client.answer(3)
    client.text("KeepAlive")
    client.session.on_time(client.now + 61)
    client.answer_all()
    assert client.events[-1] == "EndOfTurn" and client.ended == 1
    assert (client.session.close_code, client.session.close_reason) == (1011, "NET-0001")


def test_configure_changes_thresholds_and_keyterms_and_says_what_is_wrong():
    client = Client(eot_threshold="0.9")
    bad = [
        {"eot_threshold": 0.4},
        {"eot_threshold": True},
        {"eager_eot_threshold": 0.95},
        {"eot_timeout_ms": 1},
        {"eot_threshold": "x"},
    ]
    for thresholds in bad:
        client.text("Configure", thresholds=thresholds)
        assert client.messages[-1]["type"] == "ConfigureFailure" and next(iter(thresholds)) in client.messages[-1]["description"]
    wrong = ({"thresholds": 5}, {"keyterms": "a"}, {"language_hints": ["de"]}, {"numerals": True}, {"profanity_filter": True})
    for fields in wrong:
        client.text("Configure", **fields)
        assert client.messages[-1]["type"] == "ConfigureFailure"
    client.text("Configure", thresholds={"eager_eot_threshold": 0.5}, keyterms=["Darcy"])
    success = client.messages[-1]
    assert success["type"] == "ConfigureSuccess" and success["keyterms"] == ["Darcy"]
    assert client.seat.changes == 1
    assert success["thresholds"] == {"eot_threshold": 0.9, "eager_eot_threshold": 0.5, "eot_timeout_ms": 5000}
    client.sound(0.6)
    assert client.requests[-1].keyterms == keyterms_of((Term("Darcy"),), TOKENIZER)
    client.text("Configure", thresholds={"eager_eot_threshold": None})
    assert "eager_eot_threshold" not in client.messages[-1]["thresholds"]
    client.text("Configure")
    assert client.messages[-1]["type"] == "ConfigureSuccess" and not client.ended


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eot_threshold", "0.4"),
        ("eot_threshold", "nan"),
        ("eager_eot_threshold", "0.8"),
        ("eot_timeout_ms", "1e9"),
        ("eot_timeout_ms", "soon"),
        ("encoding", "opus"),
        ("redact", "pii"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(name, value):
    with pytest.raises(ClientError) as refused:
        flux.parse([*(QUERY | {name: value}).items()], "moonshine-base")
    assert name in refused.value.message


def test_a_language_that_the_model_does_not_have_is_refused():
    with pytest.raises(ClientError, match="English"):
        flux.parse([*QUERY.items(), ("language_hint", "de")], "moonshine-base")
    flux.parse([*QUERY.items(), ("language_hint", "en"), ("language_hint", "de")], "moonshine-base")


def test_an_unknown_message_is_an_error():
    client = Client()
    client.session.on_text("no JSON", 0.0)
    assert client.messages[-1]["type"] == "Error" and client.ended == 1


@given(st.floats(0, 60), st.floats(0, 5))
def test_the_longer_it_is_silent_the_more_probable_is_the_end(silence, more):
    assert 0 <= probability_of_end(silence) <= probability_of_end(silence + more) <= 1


STEPS = st.lists(st.sampled_from(["sound", "quiet", "answer", "ForceEndTurn", "Configure", "wait"]), max_size=25)


@given(STEPS, st.sampled_from(["", "0.3", "0.6"]), st.sampled_from(["0.5", "0.7", "1"]))
def test_turns_are_in_order_whatever_happens(steps, eager, threshold):
    client = Client(
        eot_threshold=threshold, eot_timeout_ms="1500", **({"eager_eot_threshold": min(eager, threshold)} if eager else {})
    )
    for step in [*steps, "CloseStream"]:
        if step == "wait":
            client.session.on_time(client.now)
        elif not client.follow(step):
            client.text(step)
    client.answer_all()
    index, state, eager_text = 0, "silent", None
    for turn in client.turns:
        assert turn["turn_index"] == index and turn["audio_window_start"] <= turn["audio_window_end"]
        assert turn["transcript"] == " ".join(word["word"] for word in turn["words"])
        match turn["event"]:
            case "StartOfTurn":
                assert state == "silent"
                state = "speaking"
            case "Update":
                assert state == "speaking"
            case "EagerEndOfTurn":
                assert state == "speaking"
                state, eager_text = "eager", turn["transcript"]
            case "TurnResumed":
                assert state == "eager"
                state = "speaking"
            case "EndOfTurn":
                assert state == "speaking" or (state == "eager" and turn["transcript"] == eager_text)
                state, index = "silent", index + 1
    assert state == "silent" and client.ended == 1
    said = " ".join(turn["transcript"] for turn in client.turns if turn["event"] == "EndOfTurn")
    assert said == client.seat.text


# With Deepgram's own SDK


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime")


def test_the_sdk_gets_turns(served, recordings: dict[str, Speech], monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    client = client_of(served)
    pcm = np.concatenate([recordings["short"].samples, np.zeros(2 * SAMPLE_RATE, np.int16)]).tobytes()

    async def run() -> list:
        found = []
        connecting = client.listen.v2.connect(
            model="flux-general-en", encoding="linear16", sample_rate=SAMPLE_RATE, eager_eot_threshold=0.4, keyterm=["Beckett"]
        )
        async with connecting as socket:
            socket.on(EventType.MESSAGE, found.append)
            listening = asyncio.create_task(socket.start_listening())
            for start in range(0, len(pcm), 3200):
                await socket.send_media(pcm[start : start + 3200])
                await asyncio.sleep(0.025)  # four times as fast as it was spoken
            await socket.send_close_stream()
            await asyncio.wait_for(listening, 30)
        return found

    messages = asyncio.run(run())
    assert messages[0].type == "Connected"
    turns = [message for message in messages if message.type == "TurnInfo"]
    text = " ".join(turn.transcript for turn in turns if turn.event == "EndOfTurn")
    assert word_error_rate([recordings["short"].text], [text]) <= 15
