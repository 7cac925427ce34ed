"""WHIP with a real FFmpeg as the sender, and the rules of RFC 9725."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Iterator

import httpx
import imageio_ffmpeg
import pytest
import webvtt
from aiortc import RTCPeerConnection
from aiortc.sdp import SessionDescription
from websockets.sync.client import connect

from benchmarks.harness.accuracy import word_error_rate
from tests.conftest import PROJECT, RunningServer, Speech

SHORT = PROJECT / "samples" / "short.wav"
SDP, TRICKLE = "application/sdp", "application/trickle-ice-sdpfrag"


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(
        ASR_MAX_SESSIONS="1", ASR_TARGET="onnxruntime", ASR_ICE_SERVERS="stun:127.0.0.1:9,turn:user:word@127.0.0.1:9"
    )


@pytest.fixture
def http(served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{served.address}", trust_env=False, timeout=40) as client:
        wait_for_no_sessions(client)
        yield client


def wait_for_no_sessions(client: httpx.Client) -> None:
    for _ in range(300):
        if client.get("/readyz").json()["sessions"] == 0:
            return
        time.sleep(0.1)  # the server is another process
    raise AssertionError("a session was left behind")


def ffmpeg(address: str, *flags: str) -> subprocess.Popen:
    codec = ("-c:a", "libopus", "-ar", "48000", "-ac", "2", "-b:a", "48k")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "verbose", "-re", "-i", SHORT, *codec, *flags, "-f", "whip", address]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def session_of(sender: subprocess.Popen) -> str:
    """The session's address, which FFmpeg says in its log."""
    for line in sender.stderr:
        if found := re.search(r"/whip/session/[\w.-]+", line):
            return found[0]
    raise AssertionError("FFmpeg did not connect")


def messages(client: httpx.Client, address: str) -> Iterator[dict]:
    with client.stream("GET", address) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-whip_flags", "dtls_active")], ids=["passive", "active"])
def test_ffmpeg_sends_and_whoever_reads_gets_the_words(served, http, recordings: dict[str, Speech], flags):
    sender = ffmpeg(f"http://{served.address}/whip", *flags)
    try:
        session = session_of(sender)
        said = list(messages(http, f"{session}/events"))
        assert said[-1]["op"] == "final" and any(message["op"] == "interim" for message in said)
        text, told = "", ""
        for message in said:
            text = text[: message["offset"]] + message["text"]
            assert message["offset"] <= len(told), "what was stable is not said again"
            told = text[: message["stable"] if message["op"] == "interim" else None]
        assert word_error_rate([recordings["short"].text], [text]) <= 15
        captions = webvtt.from_string(http.get(f"{session}/captions.vtt").text).captions
        assert " ".join(cue.text for cue in captions).split() == text.split(), "kept for who comes late"
        assert list(messages(http, f"{session}/events"))[-1]["text"] == text
        sender.communicate(timeout=20)
        assert http.delete(session).status_code == 404, "FFmpeg has deleted it"
    finally:
        sender.kill()


@pytest.mark.slow
def test_a_sender_that_is_gone_without_a_word_leaves_its_words_and_no_session(served, http):
    sender = ffmpeg(f"http://{served.address}/whip")
    session = session_of(sender)
    said = messages(http, f"{session}/events")
    assert next(said)["op"] == "interim"
    sender.kill()
    assert list(said)[-1]["op"] in ("final", "error")


# The rules, with aiortc's offer


async def offer_of(kinds: list[str], with_channel: bool = False) -> str:
    connection = RTCPeerConnection()
    if with_channel:
        connection.createDataChannel("events")
    for kind in kinds:
        connection.addTransceiver(kind, direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    try:
        return connection.localDescription.sdp
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def offer() -> str:
    return asyncio.run(offer_of(["audio"]))


def post(http: httpx.Client, body: str, kind: str = SDP) -> httpx.Response:
    return http.post("/whip", content=body, headers={"Content-Type": kind})


def test_the_answer_names_the_session_its_words_and_the_ice_servers(http, offer):
    response = post(http, offer)
    assert response.status_code == 201 and response.headers["content-type"] == SDP and "m=audio" in response.text
    assert response.headers["etag"].startswith('"') and response.headers["accept-patch"] == TRICKLE
    links = response.headers.get_list("link")
    assert any(f"<{response.headers['location']}/events>" in link for link in links)
    assert '<stun:127.0.0.1:9>; rel="ice-server"' in links and not any("word" in link for link in links), "no password is told"
    assert http.delete(response.headers["location"]).status_code == 200
    assert http.delete(response.headers["location"]).status_code == 404


@pytest.mark.parametrize("kinds", [["audio", "video"], ["video", "audio"]])
@pytest.mark.parametrize("codec", ["VP8", "AV1"])
def test_video_of_any_codec_is_answered_and_not_taken(http, kinds, codec):
    response = post(http, asyncio.run(offer_of(kinds)).replace("VP8", codec).replace("H264", codec))
    assert response.status_code == 201
    sections = re.findall(r"(?m)^m=(\w+) (\d+)", response.text)
    assert [kind for kind, _ in sections] == kinds, "a section for each of the offer's, in its order"
    assert dict(sections)["video"] == "0" and dict(sections)["audio"] != "0"
    SessionDescription.parse(response.text)
    http.delete(response.headers["location"])


def test_a_section_that_the_offer_rejects_is_answered_and_harms_nothing(http, offer):
    rejected = "m=audio 0 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\na=mid:9\r\n"
    response = post(http, offer + rejected)
    assert response.status_code == 201, response.text
    first, second = re.findall(r"(?m)^m=audio (\d+)", response.text)
    assert first != "0" and second == "0"
    http.delete(response.headers["location"])


def test_an_audio_codec_that_is_not_known_is_the_offers_fault(http, offer):
    response = post(http, re.sub("opus/48000/2|PCMU/8000|PCMA/8000|G722/8000", "x/8000", offer))
    assert response.status_code == 400 and response.json()["reason"] == "bad_offer"


def test_two_audio_tracks_are_refused(http):
    assert post(http, asyncio.run(offer_of(["audio", "audio"]))).status_code == 400


def test_a_full_server_says_when_to_come_again(served, http, offer):
    with connect(f"ws://{served.address}/ws", proxy=None) as socket:
        socket.send('{"op":"init"}')
        socket.recv()
        refused = post(http, offer)
        assert refused.status_code == 503 and refused.headers["retry-after"]


@pytest.mark.parametrize("path", ["/whip", "/v1/realtime/calls"])
def test_offers_whose_senders_never_come_take_no_place(http, path):
    """Thirteen of them used to fill the server for three seconds."""
    offer = asyncio.run(offer_of(["audio"], with_channel=True))
    answers = [http.post(path, content=offer, headers={"Content-Type": SDP}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert http.get("/readyz").json()["sessions"] == 0


def test_methods_are_those_of_the_rfc(http, offer):
    options = http.options("/whip")
    assert options.status_code == 204 and options.headers["accept-post"] == SDP
    assert http.get("/whip").status_code == 405
    session = post(http, offer).headers["location"]
    assert http.post(session).status_code == 405
    http.delete(session)


def test_candidates_may_trickle_in(http, offer):
    response = post(http, offer)
    session, tag = response.headers["location"], response.headers["etag"]
    fragment = (
        "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
        "a=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host\r\na=end-of-candidates\r\n"
    )

    def patch(content: str, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.patch(session, content=content, headers=named).status_code

    assert patch(fragment, content_type="text/plain", if_match=tag) == 415
    assert patch(fragment, content_type=TRICKLE) == 428
    assert patch(fragment, content_type=TRICKLE, if_match='"other"') == 412
    assert patch(fragment, content_type=TRICKLE, if_match="*") == 422
    assert patch("nothing", content_type=TRICKLE, if_match=tag) == 400
    assert patch(fragment.replace("1 1 udp", "x"), content_type=TRICKLE, if_match=tag) == 400
    assert patch(fragment, content_type=TRICKLE, if_match=tag) == 204
    http.delete(session)


def test_an_unknown_session_is_not_found(http):
    for path in ("/whip/session/x/events", "/whip/session/x/captions.vtt"):
        assert http.get(path).status_code == 404
