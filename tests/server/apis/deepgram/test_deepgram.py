"""Deepgram's dialect: its messages without I/O, and its own SDK over a real connection."""

import asyncio
import json
import subprocess

import deepgram_captions
import httpx
import imageio_ffmpeg
import pytest
import webvtt
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from runtime.tokenizer import Tokenizer
from server.apis.deepgram import messages as deepgram
from server.apis.deepgram.session import DeepgramSession
from server.errors import ClientError
from tests.conftest import PROJECT, RunningServer, Speech
from tests.server.apis.scripted_client import ScriptedClient

TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two", "▁three"])
QUERY = {"model": "nova-3", "encoding": "linear16", "sample_rate": "16000"}


class Client(ScriptedClient):
    """A client of Deepgram's API."""

    def __init__(self, **query: str):
        super().__init__(TOKENIZER)
        parameters = deepgram.parse(QUERY | query, "moonshine-base")
        self.session = DeepgramSession(self.seat, parameters, "moonshine-base", self.take)

    def send_audio(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)

    def text(self, kind: str) -> None:
        self.session.on_text(json.dumps({"type": kind}), self.now)

    def finals(self) -> list[dict]:
        return [message for message in self.messages if message["type"] == "Results" and message["is_final"]]


def transcript(message: dict) -> str:
    return message["channel"]["alternatives"][0]["transcript"]


def test_finalize_is_answered_once_with_what_was_said_and_even_with_nothing():
    client = Client(endpointing="false")
    client.sound(1.0)
    client.text("Finalize")
    client.answer(3, 4)
    client.text("Finalize")
    assert [(transcript(final), final["from_finalize"]) for final in client.finals()] == [("one two", True), ("", True)]
    words = client.finals()[0]["channel"]["alternatives"][0]["words"]
    assert [(word["word"], word["punctuated_word"]) for word in words] == [("one", "one"), ("two", "two")]


def test_each_finalize_is_answered_where_the_stream_is_closed_meanwhile():
    client = Client(endpointing="false")
    client.sound(1.0)
    client.text("Finalize")
    client.text("Finalize")
    client.text("CloseStream")
    client.answer(3, 4)
    client.answer_all()
    assert [(transcript(final), final["from_finalize"]) for final in client.finals()] == [("one two", True), ("", True)]
    assert client.messages[-1]["type"] == "Metadata"


def test_an_endpoint_makes_a_final_that_says_so():
    client = Client(endpointing="300", vad_events="true")
    client.sound(1.0)
    client.answer(3)
    client.quiet(0.6)
    client.answer_all()
    assert [message["type"] for message in client.messages][0] == "SpeechStarted"
    final = client.finals()[-1]
    assert final["speech_final"] and not final["from_finalize"]


def test_an_utterance_ends_once_it_is_final_and_silent_for_long_enough():
    client = Client(endpointing="300", utterance_end_ms="1000")
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(0.6)
    client.answer_all()
    assert "UtteranceEnd" not in [message["type"] for message in client.messages]
    client.quiet(1.5)
    client.answer_all()
    assert [message["type"] for message in client.messages].count("UtteranceEnd") == 1
    assert client.messages[-1]["last_word_end"] == client.finals()[0]["channel"]["alternatives"][0]["words"][-1]["end"]


def test_configure_is_answered_and_key_terms_are_refused_by_name():
    client = Client()
    client.session.on_text('{"type": "Configure", "features": {}}', 0.0)
    client.session.on_text('{"type": "Configure", "keyterms": ["hydrogen"]}', 0.0)
    assert [message["type"] for message in client.messages] == ["ConfigureSuccess", "ConfigureFailure"]


def test_interims_come_only_where_they_are_asked_for():
    for asked, seen in (("false", False), ("true", True)):
        client = Client(interim_results=asked, endpointing="false")
        for _ in range(3):
            client.sound(0.6)
            client.answer(3, 4, 5)
        interims = [message for message in client.messages if message["type"] == "Results" and not message["is_final"]]
        assert bool(interims) == seen


def test_the_end_is_the_rest_then_metadata_then_the_close():
    client = Client(endpointing="false")
    client.sound(1.0)
    client.text("CloseStream")
    client.answer(3)
    assert [message["type"] for message in client.messages] == ["Results", "Metadata"]
    assert client.messages[-1]["duration"] == 1.0 and client.ended == 1 and client.session.close_code == 1000


@pytest.mark.parametrize("rate", ["8000", "16000", "48000"])
def test_audio_that_crosses_with_the_end_takes_no_final_away(rate):
    client = Client(endpointing="false", sample_rate=rate)
    client.sound(1.0)
    client.session.finish(client.now)  # as a server does that shuts down
    client.sound(0.5)
    client.text("CloseStream")
    client.answer_all()
    assert client.messages[-1]["type"] == "Metadata" and client.session.close_code == 1000


def test_what_was_said_is_final_before_a_silent_stream_ends():
    """Its text since the last final used to be lost, though all its audio had come."""
    client = Client()
    client.sound(1.0)
    client.answer(3)
    client.session.on_time(client.now + 11.0)
    client.now += 11.0
    client.answer(3, 4)
    assert [transcript(final) for final in client.finals()] == ["one two"] and client.messages[-1]["type"] == "Metadata"
    assert (client.session.close_code, client.session.close_reason) == (1011, "NET-0001")
    assert client.seat.ended == ["idle_timeout"]


def test_an_empty_message_is_the_end():
    client = Client()
    client.sound(1.0)
    client.session.on_audio(b"", client.now)
    client.answer(3, 4)
    assert [transcript(final) for final in client.finals()] == ["one two"] and client.session.close_code == 1000
    assert client.seat.ended == ["final"]


def test_keep_alive_keeps_a_silent_stream_and_without_it_the_stream_ends():
    client = Client()
    for _ in range(4):
        client.now += 8
        client.text("KeepAlive")
        client.session.on_time(client.now)
    assert not client.ended
    client.session.on_time(client.now + 11)
    assert (client.ended, client.session.close_code, client.session.close_reason) == (1, 1011, "NET-0001")


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"type":"x"}'])
def test_a_message_that_is_not_known_is_answered_and_the_stream_goes_on(text):
    client = Client()
    client.session.on_text(text, 0.0)
    assert client.messages[-1]["variant"] == "SchemaError" and not client.ended


BAD = {
    "opus": ({"encoding": "opus"}, "encoding"),
    "a low rate": ({"sample_rate": "4000"}, "sample_rate"),
    "a rate in words": ({"sample_rate": "many"}, "sample_rate"),
    "another language": ({"language": "de"}, "language"),
    "a callback": ({"callback": "http://a"}, "callback"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_taken_is_refused_by_name(name):
    changed, parameter = BAD[name]
    with pytest.raises(ClientError) as refused:
        deepgram.parse(QUERY | changed, "moonshine-base")
    assert refused.value.parameter == parameter


@given(st.lists(st.sampled_from(["sound", "quiet", "Finalize", "answer"]), max_size=20))
def test_finals_follow_each_other_and_are_the_whole_text(steps):
    client = Client(endpointing="300", interim_results="true")
    for step in steps:
        match step:
            case "sound":
                client.sound(0.5)
            case "quiet":
                client.quiet(0.7)
            case "answer":
                client.answer_all()
            case _:
                client.text(step)
    client.text("CloseStream")
    client.answer_all()
    finals, at = client.finals(), 0.0
    for final in finals:
        assert final["start"] == pytest.approx(at) and final["duration"] >= 0
        at = final["start"] + final["duration"]
        for word in final["channel"]["alternatives"][0]["words"]:
            assert final["start"] - 1e-6 <= word["start"] <= word["end"] <= at + 1e-6
    assert client.messages[-1]["type"] == "Metadata" and client.ended == 1
    spoken = [transcript(final) for final in finals if transcript(final)]
    assert " ".join(spoken) == client.seat.text


# With Deepgram's own SDK


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime")


def client_of(server: RunningServer) -> AsyncDeepgramClient:
    http, socket = f"http://{server.address}", f"ws://{server.address}"
    environment = DeepgramClientEnvironment(base=http, production=socket, agent=socket, agent_rest=http)
    return AsyncDeepgramClient(api_key="any", environment=environment, httpx_client=httpx.AsyncClient(trust_env=False))


def test_the_sdk_gets_interims_finals_and_metadata(served, recordings: dict[str, Speech], monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")

    async def run() -> list:
        found = []
        options = {"interim_results": True, "vad_events": True, "endpointing": 300}
        connecting = client_of(served).listen.v1.connect(model="nova-3", encoding="linear16", sample_rate=SAMPLE_RATE, **options)
        async with connecting as socket:
            socket.on(EventType.MESSAGE, found.append)
            listening = asyncio.create_task(socket.start_listening())
            pcm = recordings["short"].samples.tobytes()
            for start in range(0, len(pcm), 3200):
                await socket.send_media(pcm[start : start + 3200])
                await asyncio.sleep(0.025)  # four times as fast as it was spoken
            await socket.send_keep_alive()
            await socket.send_finalize()
            await socket.send_close_stream()
            await asyncio.wait_for(listening, 30)
        return found

    messages = asyncio.run(run())
    kinds = [message.type for message in messages]
    assert "SpeechStarted" in kinds and kinds[-1] == "Metadata"
    results = [message for message in messages if message.type == "Results"]
    finals = [message for message in results if message.is_final]
    assert any(message.from_finalize for message in finals) and any(not message.is_final for message in results)
    text = " ".join(message.channel.alternatives[0].transcript for message in finals)
    assert word_error_rate([recordings["short"].text], [text]) <= 15


def test_the_sdk_gets_a_recording_with_words(served, recordings: dict[str, Speech]):
    async def run():
        file = (PROJECT / "samples" / "short.wav").read_bytes()
        return await client_of(served).listen.v1.media.transcribe_file(request=file, model="nova-3", utterances=True)

    heard = asyncio.run(run())
    best = heard.results.channels[0].alternatives[0]
    assert word_error_rate([recordings["short"].text], [best.transcript]) <= 10
    assert " ".join(word.punctuated_word for word in best.words) == best.transcript and heard.results.utterances


def test_the_sdk_is_told_what_is_wrong_with_a_recording(served):
    async def run() -> ApiError:
        with pytest.raises(ApiError) as refused:
            await client_of(served).listen.v1.media.transcribe_file(request=b"no audio", model="nova-3")
        return refused.value

    error = asyncio.run(run())
    assert error.status_code == 400 and "INVALID_FILE" in str(error.body)


CONTAINERS = {
    "a browser's": ("webm", "libopus"),
    "Ogg": ("ogg", "libopus"),
    "WAV": ("wav", "pcm_s16le"),
    "MP3": ("mp3", "libmp3lame"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_may_come_in_pieces(served, recordings: dict[str, Speech], name):
    kind, codec = CONTAINERS[name]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        PROJECT / "samples" / "short.wav",
        "-c:a",
        codec,
        "-f",
        kind,
        "-",
    ]
    sound = subprocess.run(command, capture_output=True, check=True).stdout

    async def run() -> list[dict]:
        async with connect(f"ws://{served.address}/v1/listen?model=x", proxy=None) as socket:
            for start in range(0, len(sound), 4000):
                await socket.send(sound[start : start + 4000])
            await socket.send('{"type":"CloseStream"}')
            return [json.loads(message) async for message in socket]

    *finals, metadata = asyncio.run(run())
    assert metadata["type"] == "Metadata" and metadata["duration"] == pytest.approx(10.0, abs=0.2)
    text = " ".join(transcript(message) for message in finals)
    assert word_error_rate([recordings["short"].text], [text]) <= 15


def test_what_is_no_container_closes_the_stream_as_deepgram_does(served):
    async def run() -> tuple[int, str]:
        async with connect(f"ws://{served.address}/v1/listen?model=x", proxy=None) as socket:
            for _ in range(100):
                await socket.send(b"no container at all" * 1000)
            await socket.wait_closed()
            return socket.close_code, socket.close_reason

    assert asyncio.run(run()) == (1008, "DATA-0000")


def test_captions_are_made_of_a_recording(served):
    """deepgram-captions, by Deepgram, from the answer as it came."""
    sound = (PROJECT / "samples" / "short.wav").read_bytes()
    answer = httpx.post(f"http://{served.address}/v1/listen?model=x&utterances=true", content=sound, trust_env=False).json()
    captions = webvtt.from_string(deepgram_captions.webvtt(deepgram_captions.DeepgramConverter(answer))).captions
    spoken = answer["results"]["channels"][0]["alternatives"][0]["transcript"]
    assert " ".join(caption.text for caption in captions).split() == spoken.split()
