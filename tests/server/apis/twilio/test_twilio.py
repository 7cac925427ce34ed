"""Twilio Media Streams: the documented messages without I/O, and a call of two tracks over a real connection."""

import asyncio
import base64
import json
from collections.abc import Iterator

import av
import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.harness.accuracy import word_error_rate
from runtime.audio import SAMPLE_RATE
from server.apis.twilio.session import START_SECONDS, TwilioSession
from server.errors import ClientError, Code
from server.settings import SessionLimits
from server.stream.stream import StreamState
from tests.conftest import RunningServer, Speech
from tests.server.apis.deepgram.test_deepgram import TOKENIZER
from tests.server.apis.scripted_client import ScriptedClient

KEY = "sk-0123456789abcdef"
STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
START = {
    "accountSid": "AC0123456789abcdef0123456789abcdef",
    "streamSid": STREAM,
    "callSid": "CA0123456789abcdef0123456789abcdef",
    "tracks": ["inbound", "outbound"],
    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    "customParameters": {"api_key": KEY},
}
FRAME_MS = 20
QUIET = b"\xff" * 160


def start_message(**changed: object) -> dict:
    return {"event": "start", "sequenceNumber": "1", "streamSid": STREAM, "start": START | changed}


def media(audio: bytes, timestamp_ms: int, track: str = "inbound", **changed: object) -> dict:
    fields = {"track": track, "chunk": "2", "timestamp": str(timestamp_ms), "payload": base64.b64encode(audio).decode()}
    return {"event": "media", "sequenceNumber": "3", "streamSid": STREAM, "media": fields | changed}


def mulaw(samples: np.ndarray) -> bytes:
    """samples: int16, 8 kHz."""
    encoder = av.CodecContext.create("pcm_mulaw", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = 8000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


class Client(ScriptedClient):
    """Twilio, and one reader of the words."""

    def __init__(self, channel: str = "", **changed: object):
        super().__init__(TOKENIZER)
        self.names: list[str] = []
        self.keys: list[str] = []
        self.sent_ms = 0
        self.session = TwilioSession(self.seat, SessionLimits(), channel, self.identify, self.publish)
        self.text({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        self.text(start_message(**changed))

    def identify(self, key: str) -> None:
        self.keys.append(key)
        if key != KEY:
            raise ClientError(Code.INVALID_KEY, "the API key is not known")

    def publish(self, name: str) -> None:
        self.names.append(name)
        self.session.add_reader(self.take)

    def text(self, message: object) -> None:
        self.session.on_text(json.dumps(message), self.now)

    def send_audio(self, pcm: bytes) -> None:
        """Send audio to the inbound track, and silence to the outbound one."""
        self.text(media(mulaw(np.frombuffer(pcm, np.int16)[::2].copy()), self.sent_ms))
        self.text(media(QUIET, self.sent_ms, "outbound"))
        self.sent_ms += FRAME_MS


def test_each_track_has_a_place_and_its_words_are_read_under_the_name_of_the_call():
    client = Client()
    client.sound(1.0)
    client.answer_all()
    client.text({"event": "mark", "streamSid": STREAM, "mark": {"name": "x"}})
    client.text({"event": "dtmf", "streamSid": STREAM, "dtmf": {"track": "inbound_track", "digit": "1"}})
    client.text({"event": "stop", "streamSid": STREAM, "stop": {}})
    client.answer_all()
    assert client.names == [START["callSid"]] and client.keys == [KEY] and client.seat.places == 2
    finals = {message["channel"]: message["text"] for message in client.messages if message["op"] == "final"}
    assert finals == {0: "one", 1: "one"} and client.ended == 1, "so the engine of this test answers everything"
    assert client.seat.audio_seconds == pytest.approx(2.0, abs=0.05)
    assert [segment.channel for segment in client.session.segments] == [0, 1]


@pytest.mark.parametrize("names", [("of-address", "of-parameter"), ("", "of-parameter")])
def test_the_name_of_the_channel_may_be_in_the_address_or_a_parameter(names):
    of_address, of_parameter = names
    client = Client(of_address, customParameters={"api_key": KEY, "channel": of_parameter})
    assert client.names == [of_address or of_parameter]


def test_where_audio_is_missing_the_words_keep_their_times():
    client = Client(tracks=["inbound"])
    client.text(media(QUIET, 0))
    client.text(media(QUIET, 3020))
    assert client.seat.audio_seconds == pytest.approx(3.04, abs=0.02)
    client.text(media(QUIET, 3043))  # rounding is no gap
    assert client.seat.audio_seconds == pytest.approx(3.06, abs=0.02)


def test_a_long_gap_is_filled_bit_by_bit_and_time_that_goes_back_is_taken_as_it_comes():
    client = Client(tracks=["inbound"])
    client.text(media(QUIET, 600_000))
    assert client.seat.audio_seconds == pytest.approx(5.02, abs=0.02), "a few bytes do not become ten minutes at once"
    client.text(media(QUIET, 0))
    assert client.seat.audio_seconds == pytest.approx(5.04, abs=0.02)


WRONG = {
    "media before start": ({"event": "connected"}, media(QUIET, 0)),
    "stop before start": ({"event": "stop"},),
    "start twice": (start_message(), start_message()),
    "another stream": (start_message(), media(QUIET, 0) | {"streamSid": "MZ0"}),
    "no stream": (start_message(), {"event": "media", "media": media(QUIET, 0)["media"]}),
    "a track that was not started": (start_message(tracks=["inbound"]), media(QUIET, 0, "outbound")),
    "no such track": (start_message(tracks=["inbound", "sideways"]),),
    "no base64": (start_message(), media(QUIET, 0, payload="§§§")),
    "no payload": (start_message(), media(QUIET, 0, payload=None)),
    "no time": (start_message(), media(QUIET, 0, timestamp="soon")),
    "a negative time": (start_message(), media(QUIET, 0, timestamp="-1")),
    "an encoding": (start_message(mediaFormat={"encoding": "audio/opus"}),),
    "a rate": (start_message(mediaFormat={"encoding": "audio/x-mulaw", "sampleRate": 4000}),),
    "two channels in a track": (start_message(mediaFormat={"encoding": "audio/x-mulaw", "channels": 2}),),
    "a channel's name": (start_message(customParameters={"api_key": KEY, "channel": "a/b"}),),
    "a wrong key": (start_message(customParameters={"api_key": "sk-wrong-wrong-wrong"}),),
    "no key": (start_message(customParameters={}),),
    "parameters": (start_message(customParameters=[1]),),
    "no start": ({"event": "start"},),
    "no object": ("media",),
    "no event": ({"start": START},),
}


@pytest.mark.parametrize("messages", WRONG.values(), ids=WRONG)
def test_what_cannot_be_ends_the_call_with_the_reason_in_the_close(messages):
    client = Client.__new__(Client)
    ScriptedClient.__init__(client, TOKENIZER)
    client.names, client.keys = [], []
    client.session = TwilioSession(client.seat, SessionLimits(), "", client.identify, client.publish)
    for message in messages:
        client.text(message)
    assert client.ended == 1 and client.session.close_code == 1008
    assert 0 < len(client.session.close_reason.encode()) <= 123 and "sk-" not in client.session.close_reason
    assert client.seat.audio_seconds == 0


def test_a_connection_without_a_start_ends_soon_whatever_it_sends():
    client = Client.__new__(Client)
    ScriptedClient.__init__(client, TOKENIZER)
    client.session = TwilioSession(client.seat, SessionLimits(), "", lambda key: None, lambda name: None)
    while client.now < START_SECONDS:
        client.now += 1.0
        client.text({"event": "connected"})
        assert not client.ended
        client.session.on_time(client.now)
    client.session.on_time(client.now + 0.1)
    assert client.seat.ended == ["init_timeout"]


def test_a_connection_that_breaks_leaves_the_words_to_their_readers():
    client = Client(tracks=["inbound"])
    client.sent_ms = 0
    for _ in range(50):
        client.text(media(mulaw(np.random.default_rng(0).integers(-8000, 8000, 160, dtype=np.int16)), client.sent_ms))
        client.sent_ms += FRAME_MS
        client.now += FRAME_MS / 1000
    client.session.leave(client.now)
    client.answer_all()
    assert client.messages[-1]["op"] == "final" and client.seat.streams[0].state is StreamState.ENDED and client.ended == 1


# Over a connection


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime", ASR_API_KEYS=f"{KEY} name=calls sessions=2")


@pytest.fixture
def http(served) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://{served.address}", trust_env=False, timeout=60, headers=headers) as client:
        yield client


async def call(address: str, tracks: dict[str, np.ndarray], **changed: object) -> None:
    """A recorded call, sent as fast as it is taken. tracks: int16 at 16 kHz, of equal length."""
    lanes = {name: mulaw(samples[::2].copy()) for name, samples in tracks.items()}
    async with connect(f"ws://{address}", proxy=None) as socket:
        await socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await socket.send(json.dumps(start_message(tracks=list(lanes), **changed)))
        for place in range(0, max(map(len, lanes.values())), 160):
            for name, lane in lanes.items():
                await socket.send(json.dumps(media(lane[place : place + 160], place // 8, name)))
        await socket.send(json.dumps({"event": "stop", "streamSid": STREAM, "stop": {"callSid": START["callSid"]}}))
        with pytest.raises(ConnectionClosed):
            await socket.recv()


def words_of(http: httpx.Client, path: str) -> list[dict]:
    with http.stream("GET", path) as response:
        assert response.status_code == 200, path
        return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: ")]


def test_both_speakers_of_a_call_are_read_by_its_name_at_both_addresses(served, http, clips: list[Speech]):
    speakers = {"inbound": clips[18], "outbound": clips[14]}
    length = max(len(each.samples) for each in speakers.values()) + SAMPLE_RATE
    tracks = {name: np.pad(each.samples, (0, length - len(each.samples))) for name, each in speakers.items()}
    asyncio.run(call(f"{served.address}/v1/telephone/twilio", tracks))
    for prefix in ("/v1/channels", "/whip"):
        found = words_of(http, f"{prefix}/{START['callSid']}/events")
        for number, speech in enumerate(speakers.values()):
            (final,) = [message for message in found if message["op"] == "final" and message["channel"] == number]
            assert word_error_rate([speech.text], [final["text"]]) <= 40, speech.text
    captions = http.get(f"/v1/channels/{START['callSid']}/captions.vtt").text
    assert "<v Channel 1>" in captions and "<v Channel 2>" in captions


def test_the_words_need_the_key_and_the_call_names_it_in_its_first_message(served, http):
    quiet = {"inbound": np.zeros(8000, np.int16)}
    asyncio.run(call(f"{served.address}/v1/telephone/twilio/desk", quiet))
    assert httpx.get(f"http://{served.address}/v1/channels/desk/events", trust_env=False).status_code == 401
    assert words_of(http, "/v1/channels/desk/events")[-1]["op"] == "final"
    metrics = http.get("/metrics").text
    assert 'asr_sessions_total{api="twilio"}' in metrics
    sids = {words_of(http, f"/v1/channels/{name}/events")[-1]["sid"] for name in ("desk", START["callSid"])}
    assert len(sids) == 2 and all(len(sid) > 30 for sid in sids), "nobody guesses them"

    async def without_a_key() -> str:
        async with connect(f"ws://{served.address}/v1/telephone/twilio", proxy=None) as socket:
            await socket.send(json.dumps(start_message(customParameters={})))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        return closed.value.rcvd.reason

    assert "API key" in asyncio.run(without_a_key())
