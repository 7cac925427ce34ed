"""Vapi's custom transcriber: its messages without I/O, and a call of two channels over a real connection."""

import asyncio
import json

import numpy as np
import pytest
from websockets.asyncio.client import connect

from benchmarks.harness.accuracy import word_error_rate
from server.apis.vapi.session import VapiSession
from server.settings import SessionLimits
from tests.conftest import RunningServer
from tests.server.apis.deepgram.test_deepgram import TOKENIZER, two_channels
from tests.server.apis.scripted_client import ScriptedClient

START = {"type": "start", "encoding": "linear16", "container": "raw", "sampleRate": 16_000, "channels": 2}


class Client(ScriptedClient):
    """Vapi, as far as a transcriber sees it."""

    def __init__(self, **start: object):
        super().__init__(TOKENIZER)
        self.session = VapiSession(self.seat, SessionLimits(), self.take)
        self.text(START | start)

    def text(self, message: object) -> None:
        self.session.on_text(json.dumps(message), self.now)

    def send_audio(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)


def test_each_channel_has_finals_with_its_speaker_s_name():
    client = Client()
    two_channels(client, 1.0)
    client.answer_all()
    assert not client.messages, "Vapi hears finals only"
    client.session.finish(client.now)
    client.answer_all()
    assert client.seat.places == 2 and client.ended == 1
    assert {message["channel"] for message in client.messages} == {"customer", "assistant"}
    assert all(message["type"] == "transcriber-response" and message["transcription"] for message in client.messages)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding", "mulaw"),
        ("container", "wav"),
        ("sampleRate", 4000),
        ("sampleRate", "many"),
        ("sampleRate", float("nan")),
        ("channels", 3),
        ("channels", True),
    ],
)
def test_what_is_not_taken_is_an_error_that_ends_the_call(field, value):
    client = Client(**{field: value})
    assert client.messages[-1]["type"] == "error" and field in client.messages[-1]["error"] and client.ended == 1


def test_audio_before_start_and_a_second_start_are_errors_and_unknown_messages_are_not():
    before, twice = Client(type="hello"), Client()
    before.send_audio(bytes(640))
    twice.text({"type": "more"})
    assert not twice.ended
    twice.text(START)
    assert before.ended == twice.ended == 1


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime")


def test_customer_and_assistant_are_told_apart(served, clips):
    customer, assistant = clips[18], clips[14]
    quiet = np.zeros(16_000, np.int16)
    lanes = [np.concatenate([speech.samples, quiet]) for speech in (customer, assistant)]
    length = max(map(len, lanes))
    pcm = np.stack([np.pad(lane, (0, length - len(lane))) for lane in lanes], axis=1).tobytes()

    async def run() -> list[dict]:
        found: list[dict] = []
        async with connect(f"ws://{served.address}/v1/telephone/vapi", proxy=None) as socket:
            await socket.send(json.dumps(START))
            for start in range(0, len(pcm), 6400):
                await socket.send(pcm[start : start + 6400])
            while {message["channel"] for message in found} != {"customer", "assistant"}:
                found.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
        return found

    messages = asyncio.run(run())
    for name, speech in (("customer", customer), ("assistant", assistant)):
        text = " ".join(message["transcription"] for message in messages if message["channel"] == name)
        assert word_error_rate([speech.text], [text]) <= 40, name
