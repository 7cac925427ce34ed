"""Audio tracks: the words are those of the recording, and what was lost is silence."""

import asyncio
import fractions
import json
from collections.abc import Iterable

import av
import httpx
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError

from benchmarks.harness.accuracy import word_error_rate
from benchmarks.harness.simulation import SimulatedSeat
from runtime.audio import SAMPLE_RATE
from runtime.tokenizer import Tokenizer
from server.apis.native.messages import Message, Server
from server.apis.native.session import NativeSession
from server.settings import SessionLimits
from server.transports.webrtc.audio_track import MOST_MISSING_SECONDS, received
from tests.conftest import PROJECT, RunningServer, Speech

SHORT = str(PROJECT / "samples" / "short.wav")
RATE, FRAME_SAMPLES = 48_000, 960


class Frames(MediaStreamTrack):
    """A track of frames at given times, in samples."""

    kind = "audio"

    def __init__(self, times: Iterable[int]):
        super().__init__()
        self._times = iter(times)

    async def recv(self) -> av.AudioFrame:
        if (pts := next(self._times, None)) is None:
            raise MediaStreamError
        frame = av.AudioFrame.from_ndarray(np.full((1, 2 * FRAME_SAMPLES), 1000, np.int16), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, pts, fractions.Fraction(1, RATE)
        return frame


def seconds_heard(times: Iterable[int]) -> float:
    async def run() -> int:
        return sum([len(pcm) async for pcm in received(Frames(times))])

    return asyncio.run(run()) / 2 / SAMPLE_RATE


def test_what_was_lost_is_silence_so_that_times_stay_right():
    whole = [FRAME_SAMPLES * number for number in range(100)]
    assert seconds_heard(whole) == pytest.approx(2.0, abs=0.01)
    assert seconds_heard(whole[:20] + whole[70:]) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("jump", [RATE * 3600, -RATE * 3600])
def test_a_clock_that_is_set_anew_is_no_hour_of_silence(jump):
    times = [FRAME_SAMPLES * number + (jump if number >= 50 else 0) for number in range(100)]
    assert seconds_heard(times) <= 2.0 + MOST_MISSING_SECONDS + 0.01


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime")


def test_a_track_without_init_holds_its_place_no_longer_than_any_other():
    said: list[Message] = []
    limits = SessionLimits(init_timeout_seconds=5)
    seat = SimulatedSeat(limits, Tokenizer([]), lambda request: pytest.fail("nothing is asked"))
    session = NativeSession(seat, limits, Server(32, "r"), lambda message: not said.append(message), has_track=True)
    for now in range(8):
        session.on_audio(bytes(640), float(now))
        session.on_time(float(now))
    assert [(message.op, message.reason) for message in said] == [("error", "init_timeout")]


async def connect(server: RunningServer, connection: RTCPeerConnection) -> httpx.Response:
    await connection.setLocalDescription(await connection.createOffer())
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.post(
            f"http://{server.address}/webrtc", json={"sdp": connection.localDescription.sdp, "type": "offer"}
        )
    if response.status_code == 200:
        await connection.setRemoteDescription(RTCSessionDescription(**response.json()))
    return response


async def transcribe_track(server: RunningServer, file: str, seconds: float, also_sends: bytes = b"") -> list[dict]:
    """An audio track, and a data channel for the words."""
    connection, messages, ended = RTCPeerConnection(), [], asyncio.Event()
    channel, player = connection.createDataChannel("asr"), MediaPlayer(file)
    connection.addTrack(player.audio)

    @channel.on("message")
    def on_message(message: str) -> None:
        messages.append(json.loads(message))
        if messages[-1]["op"] in ("final", "error"):
            ended.set()

    @channel.on("open")
    def on_open() -> None:
        channel.send('{"op":"init","sid":"track"}')
        if also_sends:
            channel.send(also_sends)

    assert (await connect(server, connection)).status_code == 200
    if not also_sends:
        await asyncio.sleep(seconds)  # as long as the recording plays
        channel.send('{"op":"close"}')
    await asyncio.wait_for(ended.wait(), 30)
    await connection.close()
    return messages


def test_a_track_is_transcribed_and_the_words_come_over_the_channel(served, recordings: dict[str, Speech]):
    seconds = len(recordings["short"].samples) / SAMPLE_RATE
    messages = asyncio.run(transcribe_track(served, SHORT, seconds + 1.5))
    assert messages[0]["op"] == "ready" and any(message["op"] == "interim" for message in messages)
    assert word_error_rate([recordings["short"].text], [messages[-1]["text"]]) <= 15


def test_audio_over_the_channel_beside_a_track_is_refused_by_name(served):
    messages = asyncio.run(transcribe_track(served, SHORT, 0, also_sends=bytes(640)))
    assert (messages[-1]["op"], messages[-1]["reason"]) == ("error", "bad_audio")


@pytest.mark.parametrize("kinds", [["audio"], ["audio", "audio", "channel"], ["video", "channel"]])
def test_what_an_offer_may_not_have_is_said(served, kinds):
    async def run() -> httpx.Response:
        connection = RTCPeerConnection()
        for kind in kinds:
            if kind == "channel":
                connection.createDataChannel("asr")
            else:
                connection.addTransceiver(kind, direction="sendonly")
        try:
            return await connect(served, connection)
        finally:
            await connection.close()

    response = asyncio.run(run())
    assert response.status_code == 400 and response.json()["reason"] == "bad_offer" and "offer" in response.json()["message"]
