"""Deepgram's dialect: its messages without I/O, and its own SDK over a real connection."""

import asyncio
import io
import json
import string
import subprocess
import wave

import deepgram_captions
import httpx
import imageio_ffmpeg
import numpy as np
import pytest
import webvtt
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from runtime.tokenizer import Tokenizer
from server.apis.deepgram import query as deepgram
from server.apis.deepgram.session import DeepgramSession
from server.errors import ClientError
from server.stream.terms import Term, keyterms_of
from tests.conftest import PROJECT, RunningServer, Speech
from tests.server.apis.scripted_client import ScriptedClient

VOCABULARY = ["", "", "", "▁one", "▁two", "▁three", "▁", *string.ascii_letters, "▁um", "▁cats"]
TOKENIZER = Tokenizer(VOCABULARY)
UM, CATS = VOCABULARY.index("▁um"), VOCABULARY.index("▁cats")
QUERY = {"model": "nova-3", "encoding": "linear16", "sample_rate": "16000"}


class Client(ScriptedClient):
    """A client of Deepgram's API."""

    def __init__(self, *more: tuple[str, str], **query: str):
        super().__init__(TOKENIZER)
        parameters = deepgram.parse([*(QUERY | query).items(), *more], "moonshine-base")
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


def test_any_number_of_finalizes_is_answered():
    client = Client(endpointing="false")
    client.sound(1.0)
    for _ in range(2000):
        client.text("Finalize")
    client.answer(3, 4)
    assert len(client.finals()) == 2000 and not client.ended


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


def test_keyterms_and_keywords_are_of_every_request():
    client = Client(("keyterm", "Ocado"), ("keyterm", "Darcy"), ("keywords", "Bennet:1.5"), ("keywords", "Bingley"))
    client.sound(0.6)
    terms = (Term("Ocado"), Term("Darcy"), Term("Bennet", 3.0), Term("Bingley"))
    assert client.requests[-1].keyterms == keyterms_of(terms, TOKENIZER)


@pytest.mark.parametrize("keyword", ["Ocado:loud", "Ocado:nan", "Ocado:-1", "Ocado:0", "x" * 101])
def test_a_keyword_that_cannot_be_one_is_refused_by_name(keyword):
    with pytest.raises(ClientError) as refused:
        deepgram.parse([*QUERY.items(), ("keywords", keyword)], "moonshine-base")
    assert refused.value.parameter == "keywords" and "keywords" in refused.value.message


def test_configure_changes_the_keyterms_and_says_what_is_wrong_with_them():
    client = Client(("keyterm", "Ocado"), endpointing="false")
    for message in ({"features": {}}, {"keyterms": ["Darcy"]}, {"keyterms": 5}, {"keyterms": ["x" * 101]}):
        client.session.on_text(json.dumps({"type": "Configure"} | message), 0.0)
    kinds = [message["type"] for message in client.messages]
    assert kinds == ["ConfigureSuccess"] * 2 + ["ConfigureFailure"] * 2 and "100 characters" in client.messages[-1]["description"]
    client.sound(0.6)
    assert client.requests[-1].keyterms == keyterms_of((Term("Darcy"),), TOKENIZER)
    client.session.on_text('{"type": "Configure", "keyterms": []}', 0.0)
    client.text("Finalize")
    assert client.requests[-1].keyterms is None
    assert client.seat.changes == 2


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


def two_channels(client: Client, seconds: float) -> None:
    """Send sound in the first channel of two, and quiet in the second."""
    sound = np.random.default_rng(0).integers(-8000, 8000, int(seconds * SAMPLE_RATE), dtype=np.int16)
    sound[np.arange(len(sound)) // 1600 % 2 == 1] //= 8
    both = np.stack([sound, np.zeros_like(sound)], axis=1)
    for start in range(0, len(both), 320):
        client.now += 0.02
        client.send_audio(both[start : start + 320].tobytes())


def test_each_channel_has_a_stream_and_its_place_and_finals_of_its_own():
    client = Client(multichannel="true", channels="2", endpointing="300", vad_events="true")
    two_channels(client, 1.0)
    client.answer_all()
    client.text("Finalize")
    client.answer_all()
    two_channels(client, 0.5)
    client.text("CloseStream")
    client.answer_all()
    assert client.seat.places == 2 and len(client.seat.streams) == 2
    assert client.seat.audio_seconds == pytest.approx(2 * 1.5)
    by_channel = {index: [final for final in client.finals() if final["channel_index"] == [index, 2]] for index in range(2)}
    assert all(any(final["from_finalize"] for final in finals) for finals in by_channel.values())
    started = [message["channel"] for message in client.messages if message["type"] == "SpeechStarted"]
    assert started and all(channel == [0, 2] for channel in started)
    assert [message["type"] for message in client.messages].count("Metadata") == 1 and client.ended == 1
    assert client.messages[-1]["channels"] == 2 and client.messages[-1]["duration"] == pytest.approx(1.5)


def test_channels_that_are_not_asked_for_are_mixed():
    client = Client(channels="2", endpointing="false")
    two_channels(client, 1.0)
    assert client.seat.places == 1 and len(client.seat.streams) == 1 and client.seat.audio_seconds == pytest.approx(1.0)


def test_the_end_before_any_audio_is_one_metadata_for_all_channels():
    client = Client(multichannel="true", channels="3")
    client.text("CloseStream")
    assert [message["type"] for message in client.messages][-1:] == ["Metadata"] and client.ended == 1
    assert [message["type"] for message in client.messages].count("Metadata") == 1


TEXT_OPTIONS = {
    "numerals": ((3, 3, 3, CATS), "111 cats"),
    "smart_format": ((3, 3, 3, CATS), "111 cats"),
    "redact": ((3, 3, 3, CATS), "[NUMBER] cats"),
    "filler_words": ((UM, 3, UM, CATS), "one cats"),
    "replace": ((3, 4, CATS), "one 2 dogs"),
}
VALUES = {"redact": ["pci,numbers"], "filler_words": ["false"], "replace": ["cats:dogs", "two:2"]}


@pytest.mark.parametrize("name", TEXT_OPTIONS)
def test_an_option_of_the_text_is_for_interims_finals_and_words(name):
    tokens, written = TEXT_OPTIONS[name]
    more = [(name, value) for value in VALUES.get(name, ["true"])]
    client = Client(*more, endpointing="false", interim_results="true")
    for _ in range(3):
        client.sound(0.6)
        client.answer(*tokens, *tokens[-1:] * 2)
    client.text("Finalize")
    client.answer(*tokens)
    final = client.finals()[-1]["channel"]["alternatives"][0]
    assert final["transcript"] == written == " ".join(word["punctuated_word"] for word in final["words"])
    seen = [transcript(message) for message in client.messages if message["type"] == "Results"]
    assert all(text.startswith(written) or written.startswith(text) for text in seen) and len(seen) > 1


def test_a_search_says_where_its_phrase_was_said():
    client = Client(("search", "Two cats"), ("search", "dogs"), endpointing="false")
    client.sound(1.0)
    client.text("Finalize")
    client.answer(3, 4, CATS)
    found, nothing = client.finals()[-1]["channel"]["search"]
    words = client.finals()[-1]["channel"]["alternatives"][0]["words"]
    assert found["query"] == "Two cats" and nothing == {"query": "dogs", "hits": []}
    (hit,) = found["hits"]
    assert (hit["start"], hit["end"], hit["snippet"]) == (words[1]["start"], words[2]["end"], "two cats")


def test_what_is_for_english_text_is_left_alone_by_other_models_but_redaction_is_refused():
    asked = deepgram.parse([*QUERY.items(), ("smart_format", "true"), ("profanity_filter", "true")], "moonshine-base-ja")
    assert asked.text.are_plain
    with pytest.raises(ClientError, match="redact is for English"):
        deepgram.parse([*QUERY.items(), ("redact", "pci")], "moonshine-base-ja")


@pytest.mark.parametrize(("replaced", "word"), [("$5.20", "$5.20"), ("New York City", "new york city"), ("O'Neil", "o'neil")])
def test_the_plain_word_of_a_rewritten_one_keeps_what_is_in_it(replaced, word):
    client = Client(("replace", f"cats:{replaced}"), ("search", word), endpointing="false")
    client.sound(1.0)
    client.text("Finalize")
    client.answer(3, CATS)
    found = client.finals()[-1]["channel"]
    assert found["alternatives"][0]["words"][-1]["word"] == word and len(found["search"][0]["hits"]) == 1


BAD = {
    "a secret that is none here": ({"redact": "pii"}, "redact"),
    "a replacement of nothing": ({"replace": ":x"}, "replace"),
    "a long replacement": ({"replace": "x:" + "y" * 101}, "replace"),
    "a search that cannot be printed": ({"search": "a\nb"}, "search"),
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
        deepgram.parse([*(QUERY | changed).items()], "moonshine-base")
    assert refused.value.parameter == parameter


@given(st.lists(st.sampled_from(["sound", "quiet", "Finalize", "answer"]), max_size=20))
def test_finals_follow_each_other_and_are_the_whole_text(steps):
    client = Client(endpointing="300", interim_results="true")
    for step in steps:
        if not client.follow(step):
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
    return start_server(ASR_MAX_SESSIONS="3", ASR_TARGET="onnxruntime")


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
        return await client_of(served).listen.v1.media.transcribe_file(
            request=file, model="nova-3", utterances=True, paragraphs=True
        )

    heard = asyncio.run(run())
    best = heard.results.channels[0].alternatives[0]
    assert word_error_rate([recordings["short"].text], [best.transcript]) <= 10
    assert " ".join(word.punctuated_word for word in best.words) == best.transcript and heard.results.utterances
    sentences = [sentence for paragraph in best.paragraphs.paragraphs for sentence in paragraph.sentences]
    assert " ".join(sentence.text for sentence in sentences) == best.transcript


def stereo(left: np.ndarray, right: np.ndarray, channels: int = 2) -> bytes:
    """A WAV file with speech in its first two channels, and silence in the others."""
    samples = np.zeros((max(len(left), len(right)), channels), np.int16)
    samples[: len(left), 0], samples[: len(right), 1] = left, right
    written = io.BytesIO()
    with wave.open(written, "wb") as audio:
        audio.setparams((channels, 2, SAMPLE_RATE, 0, "NONE", ""))
        audio.writeframes(samples.tobytes())
    return written.getvalue()


def test_each_channel_of_a_stream_is_transcribed_by_itself(served, clips):
    """Raw audio, as telephones send it, and a container in pieces."""
    caller, agent = clips[18], clips[14]
    file = stereo(caller.samples, agent.samples)
    raw = {"encoding": "linear16", "sample_rate": SAMPLE_RATE}

    async def run(audio: bytes, **query) -> list:
        found = []
        async with client_of(served).listen.v1.connect(model="nova-3", channels=2, multichannel=True, **query) as socket:
            socket.on(EventType.MESSAGE, found.append)
            listening = asyncio.create_task(socket.start_listening())
            for start in range(0, len(audio), 16_000):
                await socket.send_media(audio[start : start + 16_000])
            await socket.send_close_stream()
            await asyncio.wait_for(listening, 60)
        return found

    for audio, query in ((file[44:], raw), (file, {})):
        found = asyncio.run(run(audio, **query))
        finals = [message for message in found if message.type == "Results" and message.is_final]
        for index, speech in enumerate((caller, agent)):
            of_channel = [final.channel.alternatives[0].transcript for final in finals if final.channel_index == [index, 2]]
            assert word_error_rate([speech.text], [" ".join(of_channel)]) <= 15
        assert found[-1].type == "Metadata" and found[-1].channels == 2


def test_a_stream_takes_200_keyterms_in_its_address_and_says_in_a_header_what_is_wrong_with_more(served):
    terms = [f"{number:03} {'long' * 11}" for number in range(200)]

    async def run(*more: str) -> str:
        query = "&".join(f"keyterm={term.replace(' ', '%20')}" for term in (*terms, *more))
        async with connect(f"ws://{served.address}/v1/listen?encoding=linear16&{query}") as socket:
            await socket.send('{"type": "CloseStream"}')
            return json.loads(await socket.recv())["type"]

    assert asyncio.run(run()) == "Metadata"
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(run("one more"))
    assert refused.value.response.headers["dg-error"] == "keyterm: 200 terms at most are taken"


def test_channels_that_find_no_place_are_refused_before_the_stream(served):
    async def run():
        async with client_of(served).listen.v1.connect(
            model="nova-3", channels=4, multichannel=True, encoding="linear16", sample_rate=SAMPLE_RATE
        ):
            pass

    with pytest.raises(ApiError) as refused:
        asyncio.run(run())
    assert refused.value.status_code == 503


@pytest.mark.parametrize("channels", [2, 3])
def test_each_channel_of_a_recording_is_transcribed_by_itself(served, clips, channels):
    caller, agent = clips[18], clips[14]
    later = np.concatenate([np.zeros(len(caller.samples), np.int16), agent.samples])
    file = stereo(caller.samples, later, channels)

    async def run():
        options = {"model": "nova-3", "multichannel": True, "utterances": True}
        return await client_of(served).listen.v1.media.transcribe_file(request=file, **options)

    found = asyncio.run(run())
    first, second, *others = [channel.alternatives[0].transcript for channel in found.results.channels]
    assert word_error_rate([caller.text], [first]) <= 10 and word_error_rate([agent.text], [second]) <= 10
    assert others == [""] * (channels - 2) and found.metadata.channels == channels
    said = [(each.channel, each.transcript) for each in found.results.utterances]
    assert [channel for channel, _ in said] == sorted(channel for channel, _ in said), "in order of time: one after the other"
    assert " ".join(text for channel, text in said if channel == 1) == second


def test_one_channel_is_one_and_nine_are_too_many(served, clips):
    def post(data: bytes) -> httpx.Response:
        return httpx.post(f"http://{served.address}/v1/listen?multichannel=true", content=data, trust_env=False, timeout=60)

    samples = clips[18].samples
    assert len(post(stereo(samples, samples[:0], 2)).json()["results"]["channels"]) == 2
    refused = post(stereo(samples, samples, 9))
    assert refused.status_code == 400 and "8 channels" in refused.json()["err_msg"]
    assert post(b"no audio").status_code == 400


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
