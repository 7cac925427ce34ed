"""Several gateways on one port: what belongs to a session reaches the gateway that has it."""

import asyncio
import json

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer

from server.apis.session_names import SESSION_PATH, Owner
from server.processes.forwarding import GatewayPlace
from tests.conftest import PROJECT, RunningServer

REQUESTS = 12  # each on a connection of its own, which the kernel gives to any gateway


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_WORKERS="3", ASR_MAX_SESSIONS="8", ASR_TARGET="onnxruntime")


def client_of(server: RunningServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False, limits=limits, timeout=30)


async def send_track(http: httpx.AsyncClient) -> tuple[RTCPeerConnection, str]:
    connection = RTCPeerConnection()
    connection.addTrack(MediaPlayer(str(PROJECT / "samples" / "short.wav")).audio)
    await connection.setLocalDescription(await connection.createOffer())
    headers = {"Content-Type": "application/sdp"}
    answer = await http.post("/whip/stage", content=connection.localDescription.sdp, headers=headers)
    assert answer.status_code == 201, answer.text
    await connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    return connection, answer.headers["location"]


async def read_events(http: httpx.AsyncClient, session: str) -> list[dict]:
    async with http.stream("GET", f"{session}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines()]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_readers_and_the_end_of_a_session_reach_its_gateway_from_any_other(served):
    async def run() -> tuple[list[list[dict]], list[int]]:
        async with client_of(served) as http:
            connection, session = await send_track(http)
            addresses = [session, "/whip/stage"] * (REQUESTS // 2)
            reading = [asyncio.create_task(read_events(http, address)) for address in addresses]
            await asyncio.sleep(4)  # the recording plays
            ended = [(await http.delete(session)).status_code for _ in range(2)]
            said = await asyncio.gather(*reading)
            await connection.close()
            return said, ended

    said, ended = asyncio.run(run())
    assert ended == [200, 404]
    finals = {messages[-1]["op"] for messages in said}
    texts = {"".join(message["text"] for message in messages if message["op"] == "final") for messages in said}
    assert finals == {"final"} and len(texts) == 1, "all of them heard the same end"


def test_a_channel_is_who_sends_now_whichever_gateways_had_it_before(served):
    async def run() -> tuple[int, list[list[dict]]]:
        async with client_of(served) as http:
            for _ in range(4):  # each lands on any gateway, and is kept there behind its end
                connection, session = await send_track(http)
                await http.delete(session)
                await connection.close()
            connection, session = await send_track(http)
            bad = await http.post("/whip/stage", content="no sdp", headers={"Content-Type": "application/sdp"})
            reading = [asyncio.create_task(read_events(http, "/whip/stage")) for _ in range(REQUESTS)]
            await asyncio.sleep(3)  # the recording plays
            await http.delete(session)
            said = await asyncio.gather(*reading)
            await connection.close()
            return bad.status_code, said

    bad, said = asyncio.run(run())
    assert bad == 400, "and a sender that fails takes it from nobody"
    assert len({messages[-1]["sid"] for messages in said}) == 1 and all(messages[-1]["audio_ms"] > 1000 for messages in said)


ODD = {
    "a byte beyond ASCII": ("/whip/session/r.2-x/events", {b"User-Agent": b"\xe9"}),
    "a zero": ("/whip/session/r.2-%00/events", {}),
    "an escaped percent": ("/whip/a%2520b/events", {}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_are_not_found_and_no_error_of_the_server(served, name):
    path, headers = ODD[name]
    for _ in range(REQUESTS):
        answer = httpx.get(f"http://{served.address}{path}", headers=headers, trust_env=False)
        assert answer.status_code == 404


def test_a_body_that_no_session_takes_is_refused_before_it_is_held(served):
    def endless():
        for _ in range(64):
            yield bytes(64 * 1024)

    for number in (1, 2, 3):
        try:
            answer = httpx.patch(f"http://{served.address}/whip/session/r.{number}-x", content=endless(), trust_env=False)
        except httpx.TransportError:
            continue  # refused while it was being sent
        assert answer.status_code in (404, 413)


def test_a_secret_is_read_by_every_gateway(served):
    async def run() -> list[int]:
        async with client_of(served) as http:
            secret = (await http.post("/v1/realtime/client_secrets", json={})).json()["value"]
            headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {secret}"}
            answers = [await http.post("/v1/realtime/calls", content="no sdp", headers=headers) for _ in range(REQUESTS)]
            return [answer.status_code for answer in answers]

    assert set(asyncio.run(run())) == {400}, "the offer is wrong, the secret is not"


@pytest.mark.parametrize("path", ["/whip/nobody/events", "/whip/session/r.9-abc/events", "/v1/realtime/calls/rtc_r.2-x/hangup"])
def test_a_session_that_nobody_has_is_not_found(served, path):
    method = "POST" if path.endswith("hangup") else "GET"
    assert httpx.request(method, f"http://{served.address}{path}", trust_env=False).status_code == 404


def test_a_name_says_whose_it_is(tmp_path):
    for replica in ("gpu-7", "10.0.0.5", "a.1-b"):
        for name in (Owner(replica, 12).new_name() for _ in range(20)):
            found = SESSION_PATH.fullmatch(f"/whip/session/{name}/events")
            assert (found["replica"], found["gateway"]) == (replica, "12")
            assert SESSION_PATH.fullmatch(f"/v1/realtime/calls/rtc_{name}/hangup") and not SESSION_PATH.fullmatch(f"/whip/{name}")
    assert GatewayPlace.of(str(GatewayPlace(tmp_path, 3).path)) == GatewayPlace(tmp_path, 3)
