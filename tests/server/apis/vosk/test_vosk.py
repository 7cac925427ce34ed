"""Vosk's protocol: an answer for each message of audio, without I/O and as its published client does it."""

import asyncio
import json

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.servers import free_port
from server.apis.vosk.session import VoskSession
from server.errors import Code, ServerError
from server.settings import SessionLimits
from server.stream.terms import Term, keyterms_of
from tests.conftest import RunningServer, Speech
from tests.server.apis.deepgram.test_deepgram import TOKENIZER
from tests.server.apis.scripted_client import ScriptedClient


class Client(ScriptedClient):
    """A client of Vosk's."""

    def __init__(self, **config: object):
        super().__init__(TOKENIZER)
        self.session = VoskSession(self.seat, SessionLimits(), self.take)
        self.text({"config": {"sample_rate": 16_000} | config})

    def text(self, message: object) -> None:
        self.session.on_text(json.dumps(message), self.now)

    def send_audio(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)


def test_each_message_of_audio_has_one_answer_and_eof_has_the_rest():
    client = Client(phrase_list=["Ocado", "[unk]", 5])
    client.sound(0.6)
    client.answer(3, 4)
    client.sound(0.6)
    client.answer(3, 4, 5)
    client.quiet(1.0)
    client.answer_all()
    client.quiet(0.1)
    assert len(client.messages) == round(2.3 / 0.02)
    assert any(message.get("partial") for message in client.messages)
    (result,) = [message for message in client.messages if "text" in message]
    assert result["text"] == " ".join(word["word"] for word in result["result"])
    assert all(0 <= word["start"] <= word["end"] and 0 < word["conf"] <= 1 for word in result["result"])
    client.sound(0.6)
    client.answer(3)
    client.text({"eof": 1})
    client.answer_all()
    assert client.messages[-1]["text"] and client.ended == 1
    assert client.requests[0].keyterms == keyterms_of((Term("Ocado"),), TOKENIZER)


def test_eof_before_any_audio_is_an_empty_text():
    client = Client()
    client.text({"eof": 1})
    assert client.messages == [{"text": ""}] and client.ended == 1


def test_utterances_that_no_audio_came_for_are_in_the_last_answer():
    client = Client()
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(1.0)
    client.text({"eof": 1})
    client.answer_all()
    assert client.messages[-1]["text"].startswith("one") and client.ended == 1


@pytest.mark.parametrize("rate", [4000, "many", True, 1e300, 8000.5, float("nan"), float("inf"), [8000]])
def test_a_rate_that_cannot_be_ends_the_session_with_its_name_in_the_close(rate):
    client = Client(sample_rate=rate)
    assert client.ended == 1 and not client.messages
    assert client.session.close_code == 1011 and "sample_rate" in client.session.close_reason


def test_a_rate_may_be_a_text_as_some_clients_send_it():
    client = Client(sample_rate="8000")
    client.sound(0.1)
    assert not client.ended and client.seat.audio_seconds == pytest.approx(0.2, abs=0.02)


def test_all_that_waits_is_one_answer_and_a_failure_loses_none_of_it():
    client = Client()
    for _ in range(2):
        client.sound(1.0)
        client.answer(3, 4)
        client.quiet(0.8)
    client.answer_all()
    count = len(client.messages)
    client.session.fail(ServerError(Code.ENGINE_FAILED, "the engine has stopped"))
    (result,) = client.messages[count:]
    assert result["text"] and client.session.close_reason == "the engine has stopped"


def test_a_config_in_mid_stream_changes_nothing_and_what_is_no_object_ends_it():
    client = Client()
    client.sound(0.1)
    client.text({"config": {"sample_rate": 4000}})
    assert not client.ended
    client.text("eof")
    assert client.ended == 1 and len(client.session.close_reason.encode()) <= 123


# Over a connection


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(start_server, port) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime", ASR_VOSK="1", ASR_VOSK_PORT=str(port), ASR_API_KEYS="sk-0123456789abcdef")


async def recognize(address: str, pcm: bytes, rate: int, **headers: str) -> list[dict]:
    """Sends each piece of audio and waits for its answer, as test.py of vosk-server does."""
    answers = []
    async with connect(address, additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": rate}}))
        for start in range(0, len(pcm), 8000):
            await socket.send(pcm[start : start + 8000])
            answers.append(json.loads(await socket.recv()))
        await socket.send('{"eof" : 1}')
        answers.append(json.loads(await socket.recv()))
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    return answers


@pytest.mark.parametrize("at_own_port", [True, False])
def test_the_published_client_s_messages_are_understood(served, port, recordings: dict[str, Speech], at_own_port):
    speech = recordings["short"]
    pcm = np.concatenate([speech.samples[::2], np.zeros(8000, np.int16)]).astype(np.int16).tobytes()
    address = f"ws://127.0.0.1:{port}" if at_own_port else f"ws://{served.address}/"
    headers = {} if at_own_port else {"Authorization": "Bearer sk-0123456789abcdef"}
    answers = asyncio.run(recognize(address, pcm, 8000, **headers))
    text = " ".join(answer["text"] for answer in answers if answer.get("text"))
    assert word_error_rate([speech.text], [text]) <= 25


def test_pages_of_other_origins_are_not_let_in_at_the_port_of_its_own(served, port):
    with pytest.raises(InvalidStatus, match="403"):
        asyncio.run(recognize(f"ws://127.0.0.1:{port}", bytes(640), 8000, Origin="http://evil.example"))


def test_at_the_server_s_own_port_a_key_is_needed_where_keys_are(served):
    with pytest.raises(InvalidStatus, match="401"):
        asyncio.run(recognize(f"ws://{served.address}/", bytes(640), 8000))
