"""OpenAI's Realtime API over WebRTC, with OpenAI's SDK and aiortc."""

import asyncio
import json

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from openai import AsyncOpenAI, NotFoundError

from benchmarks.harness.accuracy import word_error_rate
from server.access import ClientSecrets
from server.errors import ClientError
from tests.conftest import PROJECT, RunningServer, Speech

SHORT = PROJECT / "samples" / "short.wav"
SESSION = {
    "type": "transcription",
    "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300}}},
}
PREFIX = "conversation.item.input_audio_transcription"


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime")


def client_of(server: RunningServer, key: str = "any") -> AsyncOpenAI:
    http = httpx.AsyncClient(trust_env=False)
    return AsyncOpenAI(base_url=f"http://{server.address}/v1", api_key=key, http_client=http, max_retries=0)


class Call:
    """A browser, played by aiortc: a track, and the channel of events."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self.connection = RTCPeerConnection()
        self.connection.addTrack(MediaPlayer(str(SHORT)).audio)
        self.channel = self.connection.createDataChannel("oai-events")
        self.closed = asyncio.Event()
        self.news: asyncio.Queue[dict] = asyncio.Queue()
        self.channel.on("message", self.take)
        self.channel.on("close", self.closed.set)

    def take(self, text: str) -> None:
        self.events.append(json.loads(text))
        self.news.put_nowait(self.events[-1])

    async def until(self, kind: str) -> dict:
        while (event := await self.news.get())["type"] != kind:
            pass
        return event

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, answer: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    def texts(self) -> list[str]:
        return [event["transcript"] for event in self.events if event["type"] == f"{PREFIX}.completed"]

    def deltas(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == f"{PREFIX}.delta")


@pytest.mark.slow
def test_the_sdk_makes_a_call_and_hangs_up(served, recordings: dict[str, Speech]):
    async def run() -> Call:
        client, call = client_of(served), Call()
        answer = await client.realtime.calls.create(sdp=await call.offer(), session=SESSION)
        location = answer.response.headers["location"]
        await call.accept(answer.text)
        await asyncio.sleep(12)  # the recording plays
        await client.realtime.calls.hangup(location.rsplit("/", 1)[1])
        await asyncio.wait_for(call.closed.wait(), 20)
        with pytest.raises(NotFoundError):
            await client.realtime.calls.hangup(location.rsplit("/", 1)[1])
        await call.connection.close()
        return call

    call = asyncio.run(run())
    assert call.events[0]["type"] == "session.created"
    assert call.events[0]["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300
    assert word_error_rate([recordings["short"].text], [" ".join(call.texts())]) <= 15
    assert call.deltas() == "".join(call.texts()), "deltas of all turns joined are what was completed"


@pytest.mark.slow
def test_a_browser_calls_with_a_secret_and_gets_the_session_it_was_issued_for(served):
    async def run() -> dict:
        secret = await client_of(served).realtime.client_secrets.create(session=SESSION)
        call = Call()
        async with httpx.AsyncClient(trust_env=False) as http:
            headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {secret.value}"}
            answer = await http.post(f"http://{served.address}/v1/realtime/calls", content=await call.offer(), headers=headers)
        await call.accept(answer.text)
        created = await call.until("session.created")
        call.channel.send('{"type":"input_audio_buffer.append","audio":""}')
        await call.until("error")
        await call.connection.close()
        return created["session"]

    session = asyncio.run(asyncio.wait_for(run(), 20))
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300


def test_a_secret_opens_a_websocket_with_its_session(served, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")

    async def run() -> dict:
        secret = await client_of(served).realtime.client_secrets.create(session=SESSION)
        async with client_of(served, secret.value).realtime.connect(extra_query={"intent": "transcription"}) as connection:
            return (await connection.recv()).model_dump()

    session = asyncio.run(run())["session"]
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300


BAD = {
    "a secret that is none": ("ek_x", "application/sdp", "v=0", 401),
    "no offer": ("any", "application/sdp", "nothing", 400),
    "no session description in the form": ("any", "multipart/form-data; boundary=x", "--x--", 400),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_call_has_openais_shape(served, name):
    key, kind, body, status = BAD[name]
    headers = {"Content-Type": kind, "Authorization": f"Bearer {key}"}
    answer = httpx.post(f"http://{served.address}/v1/realtime/calls", content=body, headers=headers, trust_env=False)
    assert answer.status_code == status and answer.json()["error"]["message"] and answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "body",
    [{"expires_after": {"seconds": 1}}, {"expires_after": "soon"}, {"session": {"type": "realtime"}}, {"session": []}],
)
def test_a_secret_that_cannot_be_issued_is_refused(served, body):
    answer = httpx.post(f"http://{served.address}/v1/realtime/client_secrets", json=body, trust_env=False)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_secret_is_good_until_it_expires_and_for_nobody_else():
    now = [1000.0]
    secrets = ClientSecrets("key", lambda: now[0])
    issued = secrets.issue({"a": 1}, seconds=60)
    assert secrets.read(issued.value) == issued and secrets.read("another key") is None
    with pytest.raises(ClientError):
        ClientSecrets("other", lambda: now[0]).read(issued.value)
    now[0] += 61
    with pytest.raises(ClientError):
        secrets.read(issued.value)
