"""OpenAI's Realtime API: the events of turns, without I/O, and with OpenAI's own client over a real connection."""

import asyncio
import base64
import json
import string

import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Result
from runtime.tokenizer import Tokenizer
from server.apis.openai import messages
from server.apis.openai.messages import Configuration
from server.apis.openai.session import RealtimeSession
from server.stream.stream import Judge, judge_nothing
from server.stream.terms import Term, keyterms_of
from tests.conftest import RunningServer, Speech
from tests.server.apis.scripted_client import ScriptedClient

TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two", "▁three", "▁", *string.ascii_letters])
PCM16 = {"type": "audio/pcm", "rate": SAMPLE_RATE}
MANUAL = {"format": PCM16, "turn_detection": None}
TURNS = {"format": PCM16, "turn_detection": {"type": "server_vad", "silence_duration_ms": 400, "prefix_padding_ms": 300}}
PREFIX = "conversation.item.input_audio_transcription"


class Client(ScriptedClient):
    """A client of OpenAI's Realtime API."""

    def __init__(self, judge: Judge = judge_nothing, **audio_input: object):
        super().__init__(TOKENIZER, judge)
        self.session = RealtimeSession(self.seat, 60.0, Configuration("UsefulSensors/moonshine-base"), self.take)
        if audio_input:
            self.send("session.update", session={"type": "transcription", "audio": {"input": audio_input}})

    def send(self, kind: str, **fields: object) -> None:
        self.session.on_text(json.dumps({"type": kind} | fields), self.now)

    def send_audio(self, pcm: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    def started_ms(self) -> list[int]:
        return [event["audio_start_ms"] for event in self.messages if event["type"] == "input_audio_buffer.speech_started"]

    def kinds(self) -> list[str]:
        return [event["type"].removeprefix(PREFIX) for event in self.messages if not event["type"].startswith("session")]

    def texts(self) -> list[str]:
        return [event["transcript"] for event in self.messages if event["type"] == f"{PREFIX}.completed"]


def test_log_probabilities_come_with_each_completed_item_where_they_are_included():
    client = Client(**MANUAL)
    client.send("session.update", session={"include": ["item.input_audio_transcription.logprobs"]})
    for tokens in ((3, 4), (5,)):
        client.sound(1.0)
        client.send("input_audio_buffer.commit")
        client.answer(*tokens)
    completed = [event for event in client.messages if event["type"] == f"{PREFIX}.completed"]
    assert [[each["token"] for each in event["logprobs"]] for event in completed] == [["one", " two"], ["three"]]
    assert completed[0]["logprobs"][1] == {"token": " two", "logprob": -0.01, "bytes": list(b" two")}
    plain = Client(**MANUAL)
    plain.sound(1.0)
    plain.send("input_audio_buffer.commit")
    plain.answer(3)
    assert "logprobs" not in plain.messages[-1]


def test_keywords_and_names_of_the_prompt_are_of_every_request_from_the_update_on():
    client = Client(**MANUAL, transcription={"keywords": ["Ocado"], "prompt": "They met Darcy."})
    client.sound(0.6)
    assert client.requests[-1].keyterms == keyterms_of((Term("Ocado"), Term("Darcy")), TOKENIZER)
    client.send("session.update", session={"audio": {"input": {"transcription": {"keywords": ["Bennet"]}}}})
    client.answer(3)
    client.sound(0.6)
    assert client.requests[-1].keyterms == keyterms_of((Term("Bennet"),), TOKENIZER)


def test_only_what_changes_is_read_again(monkeypatch):
    """A prompt may take milliseconds to read, and comes back with each answer."""
    prompts, read = [], messages.with_prompt
    monkeypatch.setattr(messages, "with_prompt", lambda terms, prompt, name: prompts.append(prompt) or read(terms, prompt, name))
    client = Client(**MANUAL, transcription={"prompt": "They met Darcy."})
    for session in ({}, {"audio": {"input": {"transcription": {"prompt": "They met Darcy."}}}}):
        client.send("session.update", session=session)
        assert client.messages[-1]["type"] == "session.updated" and client.seat.changes == 1
    client.send("session.update", session={"audio": {"input": {"transcription": {"prompt": "They met."}}}})
    client.send("session.update", session={"include": ["item.input_audio_transcription.logprobs"]})
    assert client.seat.changes == 3 and prompts == ["They met Darcy.", "They met."]


def test_the_phrases_of_riva_are_keywords():
    client = Client()
    boosting = {"enable_word_boosting": True, "word_boosting_list": [{"phrases": ["Ocado", "Darcy"], "boost": 20.0}]}
    session = {"input_audio_format": "none", "input_audio_params": {"sample_rate_hz": 16_000}, "word_boosting": boosting}
    client.send("transcription_session.update", session=session)
    client.sound(0.6)
    assert client.requests[-1].keyterms == keyterms_of((Term("Ocado"), Term("Darcy")), TOKENIZER)


def test_the_server_speaks_first_and_says_what_is_in_force():
    client = Client(**MANUAL)
    assert [event["type"] for event in client.messages] == ["session.created", "session.updated"]
    created, updated = (event["session"]["audio"]["input"] for event in client.messages)
    assert created["format"]["rate"] == 24_000 and created["turn_detection"]["type"] == "server_vad"
    assert updated["format"] == PCM16 and updated["turn_detection"] is None and updated["transcription"]["language"] == "en"


def test_a_commit_completes_what_was_said_and_the_session_goes_on():
    client = Client(**MANUAL)
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    client.answer(3, 4)
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    client.answer(5)
    turn = ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done", ".delta", ".completed"]
    assert client.kinds() == turn * 2 and client.texts() == ["one two", "three"]
    committed = [event for event in client.messages if event["type"] == "input_audio_buffer.committed"]
    assert committed[0]["previous_item_id"] is None and committed[1]["previous_item_id"] == committed[0]["item_id"]
    completed = [event for event in client.messages if event["type"] == f"{PREFIX}.completed"]
    assert [event["usage"]["seconds"] for event in completed] == [1.0, 1.0]


def test_turns_are_committed_by_silence_in_the_order_that_clients_expect():
    client = Client(**TURNS)
    client.sound(1.0)
    client.answer(3)
    client.quiet(0.8)
    client.answer_all()
    started, *rest = client.kinds()
    assert started == "input_audio_buffer.speech_started"
    assert [kind for kind in rest if kind != ".delta"] == [
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        ".completed",
    ]
    assert len({event["item_id"] for event in client.messages if "item_id" in event}) == 1


@pytest.mark.parametrize("judge", [0.99, 0.01])
def test_semantic_turns_end_the_earlier_the_more_eager_and_the_surer_they_are(judge):
    ends = []
    for eagerness in ("high", "auto", "medium", "low"):
        client = Client(
            lambda samples, answer: answer(judge),
            format=PCM16,
            turn_detection={"type": "semantic_vad", "eagerness": eagerness},
        )
        client.sound(1.0)
        client.answer(3)
        client.quiet(0.2)
        client.answer_all()
        while ".completed" not in client.kinds():
            client.quiet(0.1)
            client.answer_all()
            assert client.now < 10, "the longest silence holds"
        ends.append(client.now)
    high, auto, medium, low = ends
    assert high < auto == medium < low


def test_a_commit_ends_a_turn_and_what_follows_begins_another():
    client = Client(**TURNS)
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    client.answer_all()
    client.sound(1.0)
    client.answer_all()
    client.session.finish(client.now)
    client.answer_all()
    kinds = [kind for kind in client.kinds() if kind != ".delta"]
    turn = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        ".completed",
    ]
    assert kinds == turn * 2 and client.ended == 1


def test_commits_that_come_at_once_are_completed_one_after_the_other():
    client = Client(**MANUAL)
    for _ in range(2):
        client.sound(1.0)
        client.send("input_audio_buffer.commit")
    client.answer(3)
    client.answer(4)
    assert client.texts() == ["one", "two"]


def test_a_commit_of_nothing_is_an_error_only_without_turn_detection():
    manual, turns = Client(**MANUAL), Client(**TURNS)
    for client in (manual, turns):
        client.send("input_audio_buffer.commit", event_id="mine")
    assert manual.messages[-1]["error"]["code"] == "input_audio_buffer_commit_empty"
    assert manual.messages[-1]["error"]["event_id"] == "mine" and turns.kinds() == [] and not manual.ended


def test_what_is_cleared_was_never_said():
    client = Client(**MANUAL)
    client.sound(1.0)
    client.answer(3)
    client.send("input_audio_buffer.clear")
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    client.answer(4)
    assert client.texts() == ["two"] and "input_audio_buffer.cleared" in client.kinds()


BAD = {
    "not JSON": ("bad_json", "no"),
    "not an object": ("bad_json", "[]"),
    "another kind of session": ("invalid_value", {"type": "session.update", "session": {"type": "realtime"}}),
    "no session": ("invalid_value", {"type": "session.update"}),
    "a format": ("unsupported_value", {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "mp3"}}}}}),
    "a model": (
        "model_not_found",
        {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "x"}}}}},
    ),
    "a language": (
        "unsupported_language",
        {"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": "de"}}}}},
    ),
    "no base64": ("invalid_value", {"type": "input_audio_buffer.append", "audio": "?!"}),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_and_the_session_goes_on(name):
    code, message = BAD[name]
    client = Client(**MANUAL)
    client.session.on_text(message if isinstance(message, str) else json.dumps(message), 0.0)
    assert client.messages[-1]["type"] == "error" and client.messages[-1]["error"]["code"] == code
    client.sound(0.5)
    client.send("input_audio_buffer.commit")
    client.answer(3)
    assert client.texts() == ["one"] and not client.ended


@pytest.mark.parametrize(
    "message", [{"type": "response.create"}, {"type": "x"}, {}, {"type": "session.update", "session": {"foo": 1}}]
)
def test_what_is_harmless_is_no_error(message):
    client = Client()
    client.session.on_text(json.dumps(message), 0.0)
    assert not any(event["type"] == "error" for event in client.messages)


@given(st.lists(st.sampled_from(["sound", "quiet", "commit", "answer", "clear"]), max_size=20), st.booleans())
def test_deltas_are_the_beginning_of_what_is_completed(steps, has_turns):
    client = Client(**(TURNS if has_turns else MANUAL))
    for step in steps:
        if not client.follow(step):
            client.send(f"input_audio_buffer.{step}")
    client.answer_all()
    said: dict[str, str] = {}
    committed = []
    for event in client.messages:
        match event["type"]:
            case "input_audio_buffer.committed":
                assert event["previous_item_id"] == (committed[-1] if committed else None) or "clear" in steps
                committed.append(event["item_id"])
            case kind if kind == f"{PREFIX}.delta":
                assert event["delta"]
                said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
            case kind if kind == f"{PREFIX}.completed":
                assert said.pop(event["item_id"], "") == event["transcript"]
                assert event["item_id"] in committed, "completed behind its commit"
    assert len(committed) == len(set(committed))


# With OpenAI's own client


def test_times_of_turns_go_on_when_turn_detection_is_switched_on_and_after_a_clear():
    client = Client(**MANUAL)
    client.sound(2.0)
    client.send("session.update", session={"audio": {"input": TURNS}})
    client.quiet(1.0)
    client.sound(1.0)
    assert client.started_ms() == pytest.approx([2700], abs=100), "3.0 s, less the prefix of 300 ms"
    client.send("input_audio_buffer.clear")
    client.quiet(1.0)
    client.sound(1.0)
    assert client.started_ms() == pytest.approx([2700, 4700], abs=100)


def test_a_clear_keeps_the_turns_that_were_committed():
    """A client that clears the buffer at the next press used to wait for the last turn's text for ever."""
    client = Client(**MANUAL)
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    committed = client.requests[-1]
    client.sound(0.5)
    client.send("input_audio_buffer.clear")
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    client.seat.deliver(Result(committed, (3, 4), (-0.01, -0.01)), client.now)
    client.answer(5)
    done = [event for event in client.messages if event["type"] == f"{PREFIX}.completed"]
    assert [event["transcript"] for event in done] == ["one two", "three"]
    added = [event for event in client.messages if event["type"] == "conversation.item.added"]
    assert added[1]["previous_item_id"] == added[0]["item"]["id"] == done[0]["item_id"]
    assert len(client.seat.streams) == 2 and not client.ended


def test_the_end_waits_for_turns_of_before_a_clear():
    client = Client(**MANUAL)
    client.sound(1.0)
    client.send("input_audio_buffer.commit")
    committed = client.requests[-1]
    client.send("input_audio_buffer.clear")
    client.session.finish(client.now)
    assert not client.ended
    client.seat.deliver(Result(committed, (3,), (-0.01,)), client.now)
    assert client.ended == 1 and client.messages[-1]["type"] == f"{PREFIX}.completed"


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime")


async def speak(connection: AsyncRealtimeConnection, samples: np.ndarray) -> None:
    for start in range(0, len(samples), SAMPLE_RATE // 20):
        audio = base64.b64encode(samples[start : start + SAMPLE_RATE // 20].tobytes()).decode()
        await connection.input_audio_buffer.append(audio=audio)


async def transcribe(server: RunningServer, samples: np.ndarray, audio_input: dict) -> list:
    client = openai.AsyncOpenAI(base_url=f"http://{server.address}/v1", api_key="any")
    options = {"proxy": None}
    async with client.realtime.connect(
        extra_query={"intent": "transcription"}, websocket_connection_options=options
    ) as connection:
        await connection.session.update(session={"type": "transcription", "audio": {"input": audio_input}})
        await speak(connection, samples)
        if audio_input["turn_detection"] is None:
            await connection.input_audio_buffer.commit()
        events = []
        async for event in connection:
            events.append(event)
            if event.type == f"{PREFIX}.completed":
                return events
    raise AssertionError("the connection ended before the text was completed")


@pytest.mark.parametrize("audio_input", [MANUAL, TURNS], ids=["commits", "turns"])
def test_openais_client_gets_deltas_and_the_whole(served, recordings: dict[str, Speech], audio_input):
    speech = recordings["short"].samples
    samples = np.concatenate([speech[: 5 * SAMPLE_RATE], np.zeros(SAMPLE_RATE, np.int16)])
    events = asyncio.run(transcribe(served, samples, audio_input))
    deltas = [event.delta for event in events if event.type == f"{PREFIX}.delta"]
    assert events[0].type == "session.created" and "".join(deltas) == events[-1].transcript
    first = events[-1].transcript
    assert word_error_rate([" ".join(recordings["short"].text.split()[: len(first.split())])], [first]) <= 10


def test_a_full_server_refuses_the_handshake(served):
    async def run() -> int:
        client = openai.AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="any", max_retries=0)
        options = {"proxy": None}

        def connect():
            return client.realtime.connect(model="moonshine-base", websocket_connection_options=options)

        async with connect(), connect():
            with pytest.raises(Exception, match="503"):
                async with connect():
                    pass
        return 1

    assert asyncio.run(run())
