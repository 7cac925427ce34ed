"""jambonz's custom speech API: its messages without I/O, and a call of 8 kHz over a real connection."""

import asyncio
import json

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from benchmarks.harness.accuracy import word_error_rate
from server.apis.jambonz.session import JambonzSession
from server.settings import SessionLimits
from server.stream.terms import Term, keyterms_of
from tests.conftest import RunningServer, Speech
from tests.server.apis.deepgram.test_deepgram import TOKENIZER
from tests.server.apis.scripted_client import ScriptedClient

START = {
    "type": "start",
    "language": "en-US",
    "format": "raw",
    "encoding": "LINEAR16",
    "interimResults": True,
    "sampleRateHz": 16_000,
    "options": {"hints": ["Ocado", {"phrase": "Darcy", "boost": 5}, 7]},
}


class Client(ScriptedClient):
    """jambonz, as far as a recognizer sees it."""

    def __init__(self, **start: object):
        super().__init__(TOKENIZER)
        self.session = JambonzSession(self.seat, SessionLimits(), "moonshine-base", self.take)
        self.text(START | start)

    def text(self, message: object) -> None:
        self.session.on_text(json.dumps(message), self.now)

    def send_audio(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)


def test_a_call_has_interims_and_a_final_for_each_utterance_and_ends_after_the_last():
    client = Client()
    for _ in range(2):
        client.sound(0.6)
        client.answer(3, 4)
    client.quiet(1.0)
    client.answer_all()
    client.sound(0.6)
    client.answer(5)
    client.text({"type": "stop"})
    client.answer_all()
    finals = [message for message in client.messages if message["is_final"]]
    assert len(finals) == 2 and client.ended == 1 and not client.messages[0]["is_final"]
    assert all(message["type"] == "transcription" and message["language"] == "en-US" for message in client.messages)
    alternative = finals[0]["alternatives"][0]
    assert alternative["transcript"].startswith("one") and 0 < alternative["confidence"] <= 1
    assert client.requests[0].keyterms == keyterms_of((Term("Ocado"), Term("Darcy")), TOKENIZER)


def test_interims_come_only_where_they_are_asked_for():
    client = Client(interimResults=False)
    for _ in range(3):
        client.sound(0.6)
        client.answer(3, 4)
    assert not client.messages


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding", "OPUS"),
        ("sampleRateHz", 4000),
        ("sampleRateHz", "many"),
        ("sampleRateHz", 10**400),
        ("sampleRateHz", True),
        ("language", "de-DE"),
    ],
)
def test_what_is_not_taken_is_an_error_that_ends_the_call(field, value):
    client = Client(**{field: value})
    assert client.messages[-1]["type"] == "error" and client.ended == 1
    assert (field if field != "language" else "English") in client.messages[-1]["error"]


@pytest.mark.parametrize("message", [START, "no object", ["start"]])
def test_a_second_start_and_what_is_no_object_end_the_call(message):
    client = Client()
    client.text(message)
    assert client.messages[-1]["type"] == "error" and client.ended == 1


def test_audio_before_start_is_an_error_and_stop_before_it_is_none():
    for is_audio in (True, False):
        client = Client(type="hello")
        client.send_audio(bytes(640)) if is_audio else client.text({"type": "stop"})
        assert client.ended == 1 and [message["type"] for message in client.messages] == ["error"] * is_audio


# Over a connection


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime", ASR_API_KEYS="sk-0123456789abcdef")


def test_a_call_of_8_khz_is_transcribed_and_closed_by_the_server(served, recordings: dict[str, Speech]):
    speech = recordings["short"]
    pcm = speech.samples[::2].astype(np.int16).tobytes()

    async def run() -> tuple[list[dict], int]:
        headers = {"Authorization": "Bearer sk-0123456789abcdef"}
        async with connect(f"ws://{served.address}/v1/telephone/jambonz", additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps(START | {"sampleRateHz": 8000, "options": {}}))
            for start in range(0, len(pcm), 3200):
                await socket.send(pcm[start : start + 3200])
            await socket.send('{"type": "stop"}')
            return [json.loads(message) async for message in socket], socket.close_code

    messages, code = asyncio.run(run())
    text = " ".join(message["alternatives"][0]["transcript"] for message in messages if message["is_final"])
    assert word_error_rate([speech.text], [text]) <= 25 and code == 1000


def test_a_call_without_the_key_is_refused(served):
    async def run() -> None:
        async with connect(f"ws://{served.address}/v1/telephone/jambonz", proxy=None):
            pass

    with pytest.raises(InvalidStatus, match="401"):
        asyncio.run(run())
