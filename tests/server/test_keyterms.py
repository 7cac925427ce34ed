"""Keyterms by every way in, with the clients that people use: what is written "Ishmeel" without them comes out as "Ishmael"."""

import asyncio
import base64
import io
import json
import subprocess
import sys
import wave

import httpx
import numpy as np
import openai
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType
from websockets.asyncio.client import connect

from moonshine_client import StreamingClient, transcribe
from runtime.audio import SAMPLE_RATE
from tests.conftest import PROJECT, RunningServer

CLIP, HEARD, TERM = 4, "Ishmeel", "Ishmael"
PCM = {"type": "audio/pcm", "rate": SAMPLE_RATE}


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="4")


@pytest.fixture(scope="module")
def samples(clips) -> np.ndarray:
    return clips[CLIP].samples


@pytest.fixture
def file(samples) -> io.BytesIO:
    written = io.BytesIO()
    with wave.open(written, "wb") as audio:
        audio.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        audio.writeframes(samples.tobytes())
    written.seek(0)
    written.name = "call.wav"
    return written


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


def openai_client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="any", http_client=httpx.Client(trust_env=False))


def deepgram_client(server: RunningServer) -> AsyncDeepgramClient:
    http, socket = f"http://{server.address}", f"ws://{server.address}"
    environment = DeepgramClientEnvironment(base=http, production=socket, agent=socket, agent_rest=http)
    return AsyncDeepgramClient(api_key="any", environment=environment, httpx_client=httpx.AsyncClient(trust_env=False))


@pytest.mark.parametrize(
    ("fields", "text"),
    [({}, HEARD), ({"keywords": [TERM]}, TERM), ({"prompt": f"The narrator is called {TERM}."}, TERM)],
    ids=["nothing", "keywords", "prompt"],
)
def test_openais_sdk(served, file, fields, text):
    assert text in openai_client(served).audio.transcriptions.create(file=file, model="whisper-1", **fields).text


def test_openais_sdk_is_told_what_is_wrong_with_its_keywords(served, file):
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(served).audio.transcriptions.create(file=file, model="whisper-1", keywords=["x" * 101])
    assert refused.value.param == "keywords"


@pytest.mark.parametrize("terms", [{"keywords": [TERM]}, {"prompt": f"The narrator is called {TERM}."}])
def test_openais_sdk_in_real_time(served, samples, terms):
    async def run() -> str:
        client = openai.AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="any")
        async with client.realtime.connect(
            extra_query={"intent": "transcription"}, websocket_connection_options={"proxy": None}
        ) as connection:
            audio = {"format": PCM, "turn_detection": None, "transcription": {"model": "whisper-1"} | terms}
            await connection.session.update(session={"type": "transcription", "audio": {"input": audio}})
            for start in range(0, len(samples), SAMPLE_RATE // 2):
                piece = samples[start : start + SAMPLE_RATE // 2].tobytes()
                await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
            await connection.input_audio_buffer.commit()
            async for event in connection:
                if event.type.endswith("transcription.completed"):
                    return event.transcript
        raise AssertionError("the connection ended before the text was completed")

    assert TERM in asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize(
    "terms", [{"keyterm": [TERM, "white whale"]}, {"keywords": [f"{TERM}:1.5"]}], ids=["keyterm", "keywords"]
)
def test_deepgrams_sdk(served, samples, file, terms):
    async def run() -> tuple[str, str]:
        finals: list[str] = []
        client = deepgram_client(served)
        options = {"model": "nova-3", "encoding": "linear16", "sample_rate": SAMPLE_RATE, **terms}

        def take(message) -> None:
            if message.type == "Results" and message.is_final:
                finals.append(message.channel.alternatives[0].transcript)

        async with client.listen.v1.connect(**options) as socket:
            socket.on(EventType.MESSAGE, take)
            listening = asyncio.create_task(socket.start_listening())
            await socket.send_media(samples.tobytes())
            await socket.send_close_stream()
            await asyncio.wait_for(listening, 30)
        found = await client.listen.v1.media.transcribe_file(request=file.read(), model="nova-3", **terms)
        return " ".join(finals), found.results.channels[0].alternatives[0].transcript

    live, whole = asyncio.run(run())
    assert TERM in live and TERM in whole


def test_deepgrams_configure_in_mid_stream(served, samples):
    async def run() -> list[dict]:
        found = []
        address = f"ws://{served.address}/v1/listen?encoding=linear16&sample_rate={SAMPLE_RATE}&endpointing=false"
        async with connect(address, proxy=None) as socket:
            await socket.send(samples[: SAMPLE_RATE // 2].tobytes())
            await socket.send(json.dumps({"type": "Configure", "keyterms": [TERM]}))
            await socket.send(samples[SAMPLE_RATE // 2 :].tobytes())
            await socket.send(json.dumps({"type": "CloseStream"}))
            async for message in socket:
                found.append(json.loads(message))
        return found

    messages = asyncio.run(run())
    assert "ConfigureSuccess" in [message["type"] for message in messages]
    assert TERM in " ".join(each["channel"]["alternatives"][0]["transcript"] for each in messages if each["type"] == "Results")


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
def test_our_own_client(served, samples, transport):
    async def run() -> str:
        async with StreamingClient(served.address, keyterms=[{"term": TERM, "boost": 2.5}], transport=transport) as client:
            await client.send(samples.tobytes())
            return (await client.close())["text"]

    assert TERM in asyncio.run(run())


def test_our_own_client_changes_them_while_it_streams(served, samples):
    async def run() -> str:
        async with StreamingClient(served.address) as client:
            await client.send(samples[: SAMPLE_RATE // 2].tobytes())
            await client.set_keyterms([TERM])
            await client.send(samples[SAMPLE_RATE // 2 :].tobytes())
            return (await client.close())["text"]

    assert TERM in asyncio.run(run())


def test_terms_that_are_set_while_our_own_client_connects_reach_the_server(served, samples):
    async def run() -> str:
        client = StreamingClient(served.address, transport="websocket")
        connecting = asyncio.create_task(client.__aenter__())
        while not connecting.done():
            await client.set_keyterms([TERM])  # a new list each time: at whichever moment of the handshake
            await asyncio.sleep(0)
        async with connecting.result():
            await client.send(samples.tobytes())
            return (await client.close())["text"]

    assert TERM in asyncio.run(asyncio.wait_for(run(), 30))


def test_terms_that_are_set_after_the_close_leave_the_final_alone(served, samples):
    async def run() -> str:
        async with StreamingClient(served.address) as client:
            await client.send(samples.tobytes())
            closing = asyncio.create_task(client.close())
            await asyncio.sleep(0)
            await client.set_keyterms([TERM])
            return (await closing)["text"]

    assert asyncio.run(asyncio.wait_for(run(), 30))


def test_streams_with_and_without_terms_beside_each_other(served, samples):
    """The term is a word that nobody would write: the pace of the audio decides which usual spelling comes without a term."""
    odd = "Ishmail"

    async def run() -> list[str]:
        asked = ([{"term": odd, "boost": 3.0}], [], [{"term": odd, "boost": 3.0}])
        each = (transcribe(served.address, samples, 4.0, keyterms=terms) for terms in asked)
        return [done.final["text"] for done in await asyncio.gather(*each)]

    first, second, third = asyncio.run(run())
    assert odd in first and odd in third and odd not in second and "Ishm" in second


@pytest.mark.parametrize("options", [(), ("--live", "--rtf", "0")], ids=["file", "live"])
def test_the_command(served, file, tmp_path, options):
    path = tmp_path / "call.wav"
    path.write_bytes(file.read())
    command = [
        sys.executable,
        "-m",
        "moonshine_client.command",
        "transcribe",
        str(path),
        "--server",
        served.address,
        "--keyterm",
        TERM,
        *options,
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and TERM in done.stdout, done.stderr
