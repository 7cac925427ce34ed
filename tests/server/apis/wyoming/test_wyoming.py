"""The Wyoming protocol, with Home Assistant's own client against a real server."""

import asyncio
import contextlib
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.servers import free_port
from runtime.audio import SAMPLE_RATE
from server.apis.wyoming import announcement, connection
from server.apis.wyoming import messages as wyoming
from server.apis.wyoming.announcement import SERVICE, addresses_of, announced
from server.apis.wyoming.messages import TranscriptWriter
from server.apis.wyoming.session import UtteranceSession
from server.errors import ClientError
from server.settings import Settings
from server.startup import listen
from server.stream.events import Final, Update
from server.telemetry.metrics import Metrics
from tests.conftest import RunningServer, Speech
from tests.server.apis.deepgram.test_deepgram import TOKENIZER
from tests.server.apis.scripted_client import ScriptedClient
from tests.server.sessions.test_registry import FakeTranscriber, make_sessions

CHUNK_SAMPLES = 1024  # as Home Assistant sends them


@dataclasses.dataclass
class Served:
    server: RunningServer
    port: int


@pytest.fixture(scope="module")
def served(start_server) -> Served:
    port = free_port()
    server = start_server(ASR_WYOMING_PORT=str(port), ASR_MAX_SESSIONS="1", ASR_TARGET="onnxruntime")
    return Served(server, port)


async def speak(
    client: AsyncTcpClient, samples: np.ndarray, rate: int = SAMPLE_RATE, channels: int = 1, speed: float = 0
) -> None:
    """speed: times the speed of speech; 0: at once."""
    await client.write_event(Transcribe(language="en").event())
    await client.write_event(AudioStart(rate, 2, channels).event())
    for start in range(0, len(samples), CHUNK_SAMPLES):
        await client.write_event(AudioChunk(rate, 2, channels, samples[start : start + CHUNK_SAMPLES].tobytes()).event())
        await asyncio.sleep(CHUNK_SAMPLES / rate / speed if speed else 0)
    await client.write_event(AudioStop().event())


async def until(client: AsyncTcpClient, kind: str) -> list[Event]:
    events: list[Event] = []
    while not events or events[-1].type != kind:
        event = await asyncio.wait_for(client.read_event(), 30)
        assert event is not None, f"the server left before {kind}"
        events.append(event)
    return events


def test_home_assistant_finds_an_english_model(served):
    async def run() -> Info:
        async with AsyncTcpClient("127.0.0.1", served.port) as client:
            await client.write_event(Ping("a").event())
            assert Pong.from_event((await until(client, "pong"))[-1]).text == "a"
            await client.write_event(Describe().event())
            return Info.from_event((await until(client, "info"))[-1])

    info = asyncio.run(run())
    assert info.asr[0].installed and info.asr[0].models[0].languages == ["en"] and info.asr[0].supports_transcript_streaming


def test_two_utterances_of_one_connection_get_their_transcripts(served, recordings: dict[str, Speech]):
    async def run() -> list[str]:
        async with AsyncTcpClient("127.0.0.1", served.port) as client:
            texts = []
            for _ in range(2):
                await speak(client, recordings["short"].samples)
                texts.append(Transcript.from_event((await until(client, "transcript"))[-1]).text)
            return texts

    texts = asyncio.run(run())
    assert texts[0] == texts[1] and word_error_rate([recordings["short"].text], [texts[0]]) <= 10


def test_the_transcript_comes_when_the_speaker_has_finished_where_that_is_asked_for(served, clips: list[Speech]):
    """The client goes on with its silence, and stops later: it gets nothing more for that, and then its next utterance."""
    speech = np.concatenate([clips[0].samples, np.zeros(3 * SAMPLE_RATE, np.int16)])

    async def run() -> list[str]:
        async with AsyncTcpClient("127.0.0.1", served.port) as client:
            texts = []
            for _ in range(2):
                await client.write_event(Transcribe(language="en", context={"end_of_turn": True}).event())
                await client.write_event(AudioStart(SAMPLE_RATE, 2, 1).event())
                for start in range(0, len(speech), CHUNK_SAMPLES):
                    await client.write_event(
                        AudioChunk(SAMPLE_RATE, 2, 1, speech[start : start + CHUNK_SAMPLES].tobytes()).event()
                    )
                texts.append(Transcript.from_event((await until(client, "transcript"))[-1]).text)
                await client.write_event(AudioStop().event())
            await client.write_event(Ping("a").event())
            after = await until(client, "pong")
            assert [event.type for event in after if event.type == "transcript"] == []
            return texts

    texts = asyncio.run(run())
    assert all(word_error_rate([clips[0].text], [text]) <= 15 for text in texts), texts


def test_another_rate_and_two_channels_are_understood(served, recordings: dict[str, Speech]):
    half = recordings["short"].samples.reshape(-1, 2).mean(axis=1).astype(np.int16)

    async def run() -> str:
        async with AsyncTcpClient("127.0.0.1", served.port) as client:
            await speak(client, np.repeat(half, 2), rate=8000, channels=2)
            return Transcript.from_event((await until(client, "transcript"))[-1]).text

    assert word_error_rate([recordings["short"].text], [asyncio.run(run())]) <= 15


def test_chunks_are_the_beginning_of_the_transcript(served, recordings: dict[str, Speech]):
    async def run() -> list[Event]:
        async with AsyncTcpClient("127.0.0.1", served.port) as client:
            await speak(client, recordings["mid"].samples, speed=6)
            return await until(client, "transcript-stop")

    events = asyncio.run(run())
    chunks = [TranscriptChunk.from_event(event).text for event in events if event.type == "transcript-chunk"]
    texts = [Transcript.from_event(event).text for event in events if event.type == "transcript"]
    assert len(texts) == 1 and "".join(chunks) == texts[0] and events[0].type == "transcript-start"


def test_no_audio_gives_an_empty_transcript(served):
    async def run() -> str:
        async with AsyncTcpClient("127.0.0.1", served.port) as client:
            await client.write_event(AudioStop().event())
            return Transcript.from_event((await until(client, "transcript"))[-1]).text

    assert asyncio.run(run()) == ""


def test_a_full_server_says_so_and_the_next_one_is_served(served, recordings: dict[str, Speech]):
    async def run() -> tuple[dict, list[str]]:
        async with AsyncTcpClient("127.0.0.1", served.port) as first, AsyncTcpClient("127.0.0.1", served.port) as second:
            await first.write_event(AudioStart(SAMPLE_RATE, 2, 1).event())
            await first.write_event(Ping().event())
            await until(first, "pong")  # the first has its place now
            await second.write_event(AudioStart(SAMPLE_RATE, 2, 1).event())
            refused = (await until(second, "error"))[-1].data
            await speak(first, recordings["short"].samples)  # an utterance that was not stopped is finished first
            texts = [Transcript.from_event((await until(first, "transcript"))[-1]).text for _ in range(2)]
            return refused, texts

    refused, texts = asyncio.run(run())
    assert refused["code"] == "server_full" and not texts[0] and texts[1]


BAD = {
    "no JSON": b"hello\n",
    "no object": b"[]\n",
    "no type": b"{}\n",
    "a length that is none": b'{"type":"ping","data_length":"x"}\n',
    "a block too long": b'{"type":"audio-chunk","payload_length":1073741824}\n',
    "a line too long": b"x" * 70_000 + b"\n",
    "another language": b'{"type":"transcribe","data":{"language":"de"}}\n',
    "a rate too low": b'{"type":"audio-start","data":{"rate":100,"width":2,"channels":1}}\n',
    "an odd width": b'{"type":"audio-start","data":{"rate":16000,"width":3,"channels":1}}\n',
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_understood_is_answered_and_the_connection_closed(served, name):
    async def run() -> list[dict]:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(BAD[name])
        answers = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return [json.loads(line) for line in answers.splitlines()]

    answers = asyncio.run(run())
    assert [answer["type"] for answer in answers] == ["error"] and len(answers[0]["data"]["text"]) > 10
    assert served.server.get("/readyz").json()["ready"]


# The dialect, without a connection


@given(st.text("ab ", max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_chunks_never_say_more_than_is_stable_and_in_the_end_all(text, stables):
    transcripts, told = TranscriptWriter("en"), ""
    for stable in sorted(min(stable, len(text)) for stable in stables):
        for message in transcripts.write(Update(text, stable, (), 0, 0.0)):
            told += message.data.get("text", "") if message.op == "transcript-chunk" else ""
        assert told in ("", text[:stable])
    last = list(transcripts.write(Final(text, (), 0, 0.0)))
    told += "".join(message.data["text"] for message in last if message.op == "transcript-chunk")
    assert told in ("", text) and [message.data["text"] for message in last if message.op == "transcript"] == [text]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_width_of_a_sample_is_its_encoding(width):
    assert wyoming.audio_format({"width": width, "rate": 16_000, "channels": 1}).frame_bytes == width


def test_a_block_that_is_no_object_is_refused():
    header = wyoming.Header.parse(b'{"type":"ping"}')
    with pytest.raises(ClientError):
        header.with_data(b"[1]")


@pytest.mark.parametrize(("limit", "value", "closed"), [("FIRST_SECONDS", 0.05, [0, 1, 2]), ("MAX_CONNECTIONS", 2, [2])])
def test_connections_that_say_nothing_are_bounded_in_time_and_number(monkeypatch, limit, value, closed):
    """They used to stay for ever, and share the process's files with those of HTTP."""
    monkeypatch.setattr(connection, limit, value)

    async def run() -> None:
        sessions, listener = make_sessions(FakeTranscriber()), listen("127.0.0.1", 0)
        async with connection.serving(sessions, Metrics(), Settings(), listener), asyncio.timeout(5):
            opened = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
            for number in closed:
                with contextlib.suppress(ConnectionResetError):
                    assert await opened[number][0].read() == b""
            for _, writer in opened:
                writer.close()

    asyncio.run(run())


def test_the_port_is_found_by_zeroconf_where_that_is_switched_on():
    """On the loopback, as two gateways of one server announce it; and it is gone after the end."""

    async def run() -> tuple[AsyncServiceInfo | None, AsyncServiceInfo | None]:
        async with AsyncZeroconf(interfaces=["127.0.0.1"]) as network:
            async with announced("kitchen pc", "127.0.0.1", 10300), announced("kitchen pc", "127.0.0.1", 10300):
                found = await network.async_get_service_info(SERVICE, f"moonshine-asr-kitchen-pc.{SERVICE}", 5000)
            network.zeroconf.cache.cache.clear()
            return found, await network.async_get_service_info(SERVICE, f"moonshine-asr-kitchen-pc.{SERVICE}", 300)

    found, gone = asyncio.run(run())
    assert found is not None and found.port == 10300 and found.parsed_addresses() == ["127.0.0.1"] and gone is None


def test_every_address_that_others_reach_is_announced_where_the_port_listens_everywhere():
    assert "127.0.0.1" not in addresses_of("0.0.0.0")
    assert addresses_of("192.0.2.1") == ["192.0.2.1"]


def test_the_announcement_may_fail_and_the_port_is_served_all_the_same(monkeypatch):
    def refuse(**_: object) -> None:
        raise OSError("no usable interface")

    monkeypatch.setattr(announcement, "AsyncZeroconf", refuse)

    async def run() -> bool:
        async with announced("a", "127.0.0.1", 10300):
            return True

    assert asyncio.run(run())


class EarlyClient(ScriptedClient):
    """A client that wants its transcript when the speaker has finished."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER)
        self.session = UtteranceSession(self.seat, wyoming.audio_format({}), 60.0, "en", self.take, ends_early=True)

    def send_audio(self, pcm: bytes) -> None:
        self.session.on_audio(pcm, self.now)
        self.session.on_time(self.now)

    @property
    def transcripts(self) -> list[str]:
        return [message["data"]["text"] for message in self.messages if message["type"] == "transcript"]


def test_an_early_end_is_one_transcript_also_where_it_is_decided_by_an_answer_of_the_engine():
    client = EarlyClient()
    client.sound(1.0)
    client.answer(3, 4)
    client.quiet(0.3)
    client.answer_all()
    for _ in range(40):
        client.quiet(0.1)
        client.answer_all()
    assert len(client.transcripts) == 1 and client.transcripts[0].startswith("one") and client.ended == 1
    assert client.session.has_ended_early
