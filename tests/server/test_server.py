"""The running server, over real aiortc connections: a process of its own, real weights, real audio."""

import asyncio
import json
import socket

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.accuracy import word_error_rate
from moonshine_client.client import StreamingClient, transcribe
from moonshine_client.errors import StreamError
from runtime import hardware
from runtime.audio import SAMPLE_RATE
from tests.server.conftest import VALIDATOR

LONGEST_WAIT_SECONDS = 30.0
CONCURRENCY = 4


@pytest.fixture(scope="module")
def server(start_server):
    return start_server("fp32", ASR_MAX_SESSIONS="12")


def transcribe_all(address: str, clips, rtf: float, concurrency: int = CONCURRENCY) -> list[str]:
    async def run() -> list[str]:
        places = asyncio.Semaphore(concurrency)

        async def one(clip) -> str:
            async with places:
                transcription = await transcribe(address, clip.samples, rtf)
                check_interims(transcription.interims, transcription.final)
                return transcription.final["text"]

        return list(await asyncio.gather(*map(one, clips)))

    return asyncio.run(run())


def check_interims(interims: list[dict], final: dict) -> None:
    """Stable characters never change, counts never fall, and the final ends the story."""
    stable = ""
    for number, interim in enumerate(interims):
        assert interim["seq"] == number and interim["latency_ms"] >= 0
        assert interim["stable"] >= len(stable) and interim["text"].startswith(stable)
        stable = interim["text"][: interim["stable"]]
    assert final["text"].startswith(stable) and final["stable"] == len(final["text"])
    assert " ".join(segment["text"] for segment in final["segments"]) == final["text"]
    times = [time for segment in final["segments"] for time in (segment["start_ms"], segment["end_ms"])]
    assert times == sorted(times) and all(time <= final["audio_ms"] for time in times)


def test_word_error_rate_over_the_wire_in_float32(server, clips):
    texts = transcribe_all(server.address, clips, rtf=4)
    rate = word_error_rate([clip.text for clip in clips], texts)
    print(f"WER of 20 evaluation clips over WebRTC, float32: {rate:.2f}%")
    assert rate <= 5.5


@pytest.mark.skipif(not hardware.sums_int8_products_exactly(), reason="int8 loses words on a processor without VNNI")
def test_word_error_rate_over_the_wire_in_int8(start_server, clips):
    server = start_server("int8")
    texts = transcribe_all(server.address, clips, rtf=4)
    rate = word_error_rate([clip.text for clip in clips], texts)
    print(f"WER of 20 evaluation clips over WebRTC, int8: {rate:.2f}%")
    assert rate <= 6.5
    assert server.stop() == 0


@pytest.mark.parametrize("rtf", [1, 10])
def test_long_speech_keeps_its_accuracy(server, recordings, rtf):
    mid = recordings["mid"]
    text = transcribe_all(server.address, [mid], rtf)[0]
    rate = word_error_rate([mid.text], [text])
    print(f"WER of mid.wav (44 s) at rtf {rtf}: {rate:.2f}%")
    assert rate <= 5.0


def test_eight_sessions_at_once_get_the_texts_of_one_at_a_time(server, clips):
    """Interims are left out of it by sending all audio at once: when they come depends on the load, and so may words."""
    chosen = clips[:8]
    alone = transcribe_all(server.address, chosen, rtf=0, concurrency=1)
    assert transcribe_all(server.address, chosen, rtf=0, concurrency=8) == alone


def test_frames_of_any_size_give_the_same_text(server, clips):
    clip = clips[18]

    async def stream(samples_per_frame: int) -> str:
        async with StreamingClient(server.address) as client:
            for start in range(0, len(clip.samples), samples_per_frame):
                await client.send(clip.samples[start : start + samples_per_frame].tobytes())
            return (await client.close())["text"]

    assert len({asyncio.run(stream(size)) for size in (37, 320, 4001, SAMPLE_RATE * 5)}) == 1


def test_ready_carries_the_session_and_the_batch(server):
    async def run() -> dict:
        async with StreamingClient(server.address, sid="0c7c8b0e-8f5e-4b43-8d3b-2b4c0e9e8a11") as client:
            return client.ready

    sid, replica = "0c7c8b0e-8f5e-4b43-8d3b-2b4c0e9e8a11", socket.gethostname()
    assert asyncio.run(run()) == {"op": "ready", "sid": sid, "max_batch": 32, "replica": replica, "frame_ms": 20}


class RawChannel:
    """A data channel without the client's manners."""

    def __init__(self, label: str = "anything"):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.connection.createDataChannel(label)
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.open, self.closed = asyncio.Event(), asyncio.Event()
        self.channel.on("open", self.open.set)
        self.channel.on("close", self.closed.set)
        self.channel.on("message", lambda message: self.messages.put_nowait(json.loads(message)))

    async def connect(self, address: str) -> "RawChannel":
        await self.connection.setLocalDescription(await self.connection.createOffer())
        description = self.connection.localDescription
        async with httpx.AsyncClient(trust_env=False) as http:
            offer = {"sdp": description.sdp, "type": description.type}
            answer = (await http.post(f"http://{address}/webrtc", json=offer)).json()
        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        await asyncio.wait_for(self.open.wait(), LONGEST_WAIT_SECONDS)
        return self

    async def receive(self) -> dict:
        message = await asyncio.wait_for(self.messages.get(), LONGEST_WAIT_SECONDS)
        VALIDATOR.validate(message)
        return message


INIT = '{"op":"init","sid":"raw","sr":16000}'
MISTAKES = {
    "audio before init": ("not_initialised", [bytes(640)]),
    "init twice": ("already_initialised", [INIT, INIT]),
    "another rate": ("unsupported_sample_rate", ['{"op":"init","sid":"raw","sr":96000}']),
    "no JSON": ("bad_message", ["hello"]),
    "no object": ("bad_message", ['"init"']),
    "unknown op": ("unknown_op", ['{"op":"pause"}']),
    "a sid that is no text": ("bad_message", ['{"op":"init","sid":"\\ud800","sr":16000}']),
    "odd bytes": ("bad_audio", [INIT, bytes(641)]),
    "too large": ("message_too_large", [INIT, bytes(160_002)]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_by_name_and_the_channel_closed(server, name):
    reason, sent = MISTAKES[name]

    async def run() -> dict:
        raw = await RawChannel().connect(server.address)
        for message in sent:
            raw.channel.send(message)
        answer = await raw.receive()
        if answer["op"] == "ready":
            answer = await raw.receive()
        await asyncio.wait_for(raw.closed.wait(), LONGEST_WAIT_SECONDS)
        await raw.connection.close()
        return answer

    error = asyncio.run(run())
    assert error["op"] == "error" and error["reason"] == reason and len(error["message"]) > 10


def test_a_second_channel_is_refused_and_the_first_goes_on(server, clips):
    async def run() -> tuple[dict, dict]:
        raw = await RawChannel().connect(server.address)
        raw.channel.send(INIT)
        assert (await raw.receive())["op"] == "ready"
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        second = raw.connection.createDataChannel("another")
        second.on("message", refused.set_result)
        refusal = json.loads(await asyncio.wait_for(refused, LONGEST_WAIT_SECONDS))
        raw.channel.send(clips[18].samples[:SAMPLE_RATE].tobytes())
        raw.channel.send('{"op":"close"}')
        answer = await raw.receive()
        while answer["op"] == "interim":
            answer = await raw.receive()
        await raw.connection.close()
        return refusal, answer

    refusal, answer = asyncio.run(run())
    VALIDATOR.validate(refusal)
    assert refusal["reason"] == "already_initialised" and answer["op"] == "final" and answer["audio_ms"] == 1000


def test_a_mistake_harms_nobody_else(server, clips):
    """A stream goes on while others beside it break the protocol and vanish."""
    clip = clips[14]

    async def misbehave() -> None:
        raw = await RawChannel().connect(server.address)
        raw.channel.send(bytes(641))
        assert (await raw.receive())["op"] == "error"
        vanishing = await RawChannel().connect(server.address)
        vanishing.channel.send(INIT)
        vanishing.channel.send(bytes(64_000))
        assert (await vanishing.receive())["op"] == "ready"
        await vanishing.connection.close()
        await raw.connection.close()

    async def run() -> str:
        stream = asyncio.create_task(transcribe(server.address, clip.samples, rtf=1))
        for _ in range(3):
            await misbehave()
        return (await stream).final["text"]

    assert word_error_rate([clip.text], [asyncio.run(run())]) < 20
    assert wait_for_no_sessions(server)


def wait_for_no_sessions(server) -> bool:
    async def poll() -> bool:
        async with httpx.AsyncClient(trust_env=False) as http:
            while (await http.get(f"http://{server.address}/readyz")).json()["sessions"]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        return True

    return asyncio.run(asyncio.wait_for(poll(), LONGEST_WAIT_SECONDS))


def post(server, **arguments) -> httpx.Response:
    return httpx.post(f"http://{server.address}/webrtc", trust_env=False, **arguments)


AUDIO_ONLY_SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\n"
    "a=mid:0\r\na=sendonly\r\na=rtpmap:0 PCMU/8000\r\n"
)
BAD_OFFERS = {
    "not JSON": (400, "bad_json", {"content": b"v=0"}),
    "not an object": (400, "bad_json", {"json": ["sdp"]}),
    "no sdp": (400, "bad_json", {"json": {"type": "offer"}}),
    "an answer": (400, "bad_json", {"json": {"sdp": "v=0\r\n", "type": "answer"}}),
    "not SDP": (400, "bad_offer", {"json": {"sdp": "hello", "type": "offer"}}),
    "empty SDP": (400, "bad_offer", {"json": {"sdp": "", "type": "offer"}}),
    "no data channel": (400, "bad_offer", {"json": {"sdp": AUDIO_ONLY_SDP, "type": "offer"}}),
    "a track beside the data channel": (
        400,
        "bad_offer",
        {"json": {"sdp": AUDIO_ONLY_SDP + "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:1\r\n", "type": "offer"}},
    ),
    "half a data channel": (
        400,
        "bad_offer",
        {"json": {"sdp": "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=application 9 DTLS/SCTP 5000\r\n", "type": "offer"}},
    ),
    "too large": (413, "body_too_large", {"content": bytes(70_000)}),
}


@pytest.mark.parametrize("name", BAD_OFFERS)
def test_a_bad_offer_is_refused_with_a_json_error(server, name):
    status, reason, arguments = BAD_OFFERS[name]
    response = post(server, **arguments)
    assert (response.status_code, response.json()["reason"]) == (status, reason)
    assert len(response.json()["message"]) > 10
    assert wait_for_no_sessions(server), "a refused offer holds no place"


def test_health_and_metrics_count_what_happened(server, clips):
    before = samples_of(server)
    transcribe_all(server.address, clips[18:19], rtf=0)
    assert server.get("/healthz").json() == {"alive": True}
    assert wait_for_no_sessions(server)
    told = server.get("/readyz").json()
    assert (told["ready"], told["sessions"], told["draining"]) == (True, 0, False) and told["max_sessions"] > 0
    after = samples_of(server)

    def grown(name: str, **labels: str) -> float:
        return after[(name, *sorted(labels.items()))] - before.get((name, *sorted(labels.items())), 0.0)

    assert grown("asr_sessions_total", api="webrtc") == 1
    assert grown("asr_messages_sent_total", api="webrtc", op="ready") == 1
    assert grown("asr_messages_sent_total", api="webrtc", op="final") == 1
    assert grown("asr_message_latency_seconds_count", api="webrtc", op="final") == 1
    assert grown("asr_audio_seconds_total") == pytest.approx(len(clips[18].samples) / SAMPLE_RATE)
    assert grown("asr_requests_total", priority="final", outcome="done") >= 1
    assert grown("asr_engine_step_seconds_count", kind="encode") >= 1 and grown("asr_engine_step_seconds_sum", kind="encode") > 0
    assert after[("asr_sessions_open", ("api", "webrtc"))] == 0 and after[("asr_ready",)] == 1


def samples_of(server) -> dict[tuple, float]:
    """Every sample of /metrics by name and labels."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}


def test_a_full_server_says_so_and_has_room_again_later(start_server, clips):
    server = start_server("fp32", ASR_MAX_SESSIONS="1", ASR_REPLICA="gpu-7.example")

    async def run() -> tuple[StreamError, list[httpx.Response]]:
        async with StreamingClient(server.address) as client, httpx.AsyncClient(trust_env=False) as http:
            assert client.ready["replica"] == "gpu-7.example"
            with pytest.raises(StreamError) as caught:
                await StreamingClient(server.address, refused_seconds=0).__aenter__()
            return caught.value, [await http.get(f"http://{server.address}/{path}") for path in ("readyz", "acceptz", "metrics")]

    error, (readiness, acceptance, metrics) = asyncio.run(run())
    assert error.reason == "server_full" and readiness.status_code == 503
    assert acceptance.status_code == 200, "a balancer that tries another one goes on sending offers"
    for told in (readiness.json(), acceptance.json()):
        assert (told["sessions"], told["max_sessions"], told["replica"]) == (1, 1, "gpu-7.example")
    assert "asr_sessions_max 1.0" in metrics.text and "asr_draining 0.0" in metrics.text
    assert wait_for_no_sessions(server)
    assert transcribe_all(server.address, clips[18:19], rtf=0)[0]


def test_time_limits_over_the_wire(start_server):
    server = start_server("fp32", ASR_INIT_TIMEOUT_SECONDS="0.5", ASR_IDLE_TIMEOUT_SECONDS="0.5")

    async def silent() -> dict:
        raw = await RawChannel().connect(server.address)
        error = await raw.receive()
        await raw.connection.close()
        return error

    async def idle() -> dict:
        raw = await RawChannel().connect(server.address)
        raw.channel.send(INIT)
        assert (await raw.receive())["op"] == "ready"
        return await raw.receive()

    assert asyncio.run(silent())["reason"] == "init_timeout"
    assert asyncio.run(idle())["reason"] == "idle_timeout"


def test_sigterm_gives_open_sessions_their_final_and_exits_with_0(start_server, clips):
    server = start_server("fp32")
    clip = clips[14]
    transcribe_all(server.address, clips[18:19], rtf=0)  # a session that came and went before

    async def run() -> tuple[dict, int]:
        async with StreamingClient(server.address, resume_seconds=0) as client:
            await client.send(clip.samples.tobytes())
            await asyncio.wait_for(anext(aiter(client)), LONGEST_WAIT_SECONDS)
            status = asyncio.to_thread(server.stop)
            stopping = asyncio.create_task(status)
            final = await asyncio.wait_for(client.outcome(), LONGEST_WAIT_SECONDS)
            return final, await stopping

    final, status = asyncio.run(run())
    assert final["op"] == "final" and final["audio_ms"] == len(clip.samples) * 1000 // SAMPLE_RATE
    assert word_error_rate([clip.text], [final["text"]]) < 20
    assert status == 0
