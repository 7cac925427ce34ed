"""Who comes in over HTTP and WebSockets, whatever the dialect; and what a page of another origin may not do."""

import asyncio
import http.client as http_client
import json
from collections.abc import Callable

import httpx
import pytest
from openai import AuthenticationError, OpenAI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from moonshine_client import StreamError, StreamingClient
from server.http.access_control import hosts_of, is_known, network_of
from server.settings import Access, Listen, Settings
from tests.conftest import PROJECT, RunningServer

KEY, MODEST = "sk-0123456789abcdef", "sk-modest-0123456789"
SHORT = PROJECT / "samples" / "short.wav"
FOREIGN = {"Origin": "https://elsewhere.example"}


@pytest.fixture(scope="module")
def locked(start_server) -> RunningServer:
    """Two gateways, so that tokens cross from one to the other."""
    return start_server(
        ASR_TARGET="onnxruntime",
        ASR_WORKERS="2",
        ASR_MAX_SESSIONS="6",
        ASR_API_KEYS=f"{KEY} name=us, {MODEST} per_minute=1",
        ASR_CORS_ORIGINS="https://friend.example",
        ASR_REPLICA="shop-1",
    )


@pytest.fixture
def http(locked) -> httpx.Client:
    with httpx.Client(base_url=f"http://{locked.address}", trust_env=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def offers(http: httpx.Client) -> list[Callable[..., httpx.Response]]:
    """Each way in that begins with a request."""

    def post(path: str, **more: object) -> Callable[..., httpx.Response]:
        return lambda headers={}: http.post(path, **(more | {"headers": more.get("headers", {}) | headers}))

    sdp = {"content": "?", "headers": {"Content-Type": "application/sdp"}}
    return [
        post("/webrtc", json={"sdp": "?", "type": "offer"}),
        post("/whip", **sdp),
        post("/whip/x", **sdp),
        post("/v1/realtime/calls", **sdp),
        post("/v1/realtime", **sdp),
        post("/v1/listen", content=b"?"),
        post("/v1/audio/transcriptions", files={"file": b"?"}),
        post("/v1/audio/translations", files={"file": b"?"}),
        post("/v1/realtime/client_secrets", json={}),
        post("/v1/realtime/transcription_sessions", json={}),
        post("/v1/tokens"),
        lambda headers={}: http.get("/metrics", headers=headers),
        lambda headers={}: http.get("/v1/models", headers=headers),
        lambda headers={}: http.get("/whip/x/captions.vtt", headers=headers),
    ]


def test_without_a_key_every_way_in_is_shut_and_with_one_it_is_open(http, locked):
    for ask in offers(http):
        refused = ask()
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer", refused.url
        assert "API key" in refused.text
        assert ask(bearer("sk-wrong-0123456789")).status_code == 401
        assert ask(bearer(KEY)).status_code not in (401, 403), refused.url
        assert ask({"Authorization": f"Token {KEY}"}).status_code not in (401, 403)
    assert KEY not in locked.log.read_text() and "sk-wrong" not in locked.log.read_text()


def test_what_everybody_may_see_needs_none(http):
    for path in ("/", "/web/page.js", "/docs", "/openapi.json", "/healthz", "/readyz", "/acceptz"):
        assert http.get(path).status_code == 200, path


@pytest.mark.parametrize(
    ("path", "protocols"),
    [
        ("/ws?token={token}", []),
        ("/ws", ["token", "{token}"]),
        ("/v1/realtime?intent=transcription", ["realtime", "openai-insecure-api-key.{token}"]),
        ("/v1/listen?encoding=linear16&sample_rate=16000", ["token", "{token}"]),
    ],
)
def test_a_token_opens_a_socket_once_at_whichever_gateway(http, locked, path, protocols):
    async def open_socket(path: str, protocols: list[str]) -> None:
        async with connect(f"ws://{locked.address}{path}", subprotocols=protocols or None, proxy=None):
            pass

    def fill(token: str) -> tuple[str, list[str]]:
        return path.replace("{token}", token), [protocol.replace("{token}", token) for protocol in protocols]

    token = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]
    asyncio.run(open_socket(*fill(token)))
    for again in (token, "none", KEY if "?token" in path else "x"):
        with pytest.raises(InvalidStatus) as refused:
            asyncio.run(open_socket(*fill(again)))
        assert refused.value.response.status_code == 401


def test_openai_s_client_is_told_as_it_expects(locked):
    base = f"http://{locked.address}/v1"
    with pytest.raises(AuthenticationError, match="API key is not known"), SHORT.open("rb") as file:
        OpenAI(base_url=base, api_key="wrong").audio.transcriptions.create(file=file, model="default")
    with SHORT.open("rb") as file:
        assert OpenAI(base_url=base, api_key=KEY).audio.transcriptions.create(file=file, model="default").text


def test_our_client_brings_a_key(locked, recordings):
    async def play(key: str | None) -> str:
        async with StreamingClient(locked.address, key=key) as client:
            await client.send(recordings["short"].samples.tobytes()[:32_000])
            return (await client.close())["op"]

    assert asyncio.run(play(KEY)) == "final"
    with pytest.raises(StreamError, match="invalid_api_key"):
        asyncio.run(play(None))


def test_what_is_issued_for_a_key_issues_nothing_itself(http):
    token = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]
    secret = http.post("/v1/realtime/client_secrets", json={}, headers=bearer(KEY)).json()["value"]
    for issued in (token, secret):
        for path in ("/v1/tokens", "/v1/realtime/client_secrets", "/v1/realtime/transcription_sessions"):
            assert http.post(path, json={}, headers=bearer(issued)).status_code == 401


@pytest.mark.parametrize("origin", ["null", "http://[", "https://elsewhere.example:99999", "elsewhere", ""])
def test_an_origin_that_is_none_is_a_foreign_one(http, origin):
    assert http.post("/v1/tokens", headers=bearer(KEY) | {"Origin": origin}).status_code == 403


def test_no_channel_s_words_are_read_by_a_name_that_looks_like_a_session(http):
    for path in ("/whip/session/events", "/whip/session/captions.vtt"):
        assert http.get(path).status_code == 401


@pytest.mark.parametrize("gateway", [1, 2])
@pytest.mark.parametrize("dots", ["../../..", "%2e%2e/%2e%2e/%2e%2e", "events/../../../.."])
def test_no_path_leads_from_a_session_past_the_lock(locked, gateway, dots):
    """The gateway that has the session lets in whatever another one hands on to it."""
    host, _, port = locked.address.rpartition(":")
    for path, method in (("v1/tokens", "POST"), ("metrics", "GET")):
        for _ in range(4):  # whichever gateway takes it
            connection = http_client.HTTPConnection(host, int(port))
            connection.request(method, f"/whip/session/a.{gateway}-b/{dots}/{path}")
            answer = connection.getresponse()
            assert answer.status == 404 and b"asr_" not in answer.read()


def test_every_answer_names_the_replica_whoever_gives_it(http, locked):
    answers = [
        http.get("/metrics"),
        http.get("/nothing", headers=bearer(KEY)),
        http.post("/webrtc", content="{", headers=bearer(KEY)),
        http.get("/"),
    ]
    assert [answer.status_code for answer in answers] == [401, 404, 400, 200]
    assert {tuple(answer.headers.get_list("x-asr-replica")) for answer in answers} == {("shop-1",)}
    token = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]

    async def shake_hands() -> list[str]:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{locked.address}/ws", proxy=None)
        async with connect(f"ws://{locked.address}/ws?token={token}", proxy=None) as opened:
            return [response.headers["X-ASR-Replica"] for response in (refused.value.response, opened.response)]

    assert asyncio.run(shake_hands()) == ["shop-1"] * 2


def test_a_key_s_rate_is_kept(http):
    answers = [http.post("/v1/tokens", headers=bearer(MODEST)) for _ in range(4)]
    assert answers[0].status_code == 200, "either gateway lets one through"
    assert answers[-1].status_code == 429 and int(answers[-1].headers["retry-after"]) > 0


def test_pages_of_another_origin_are_refused_even_with_a_key(http, locked):
    for ask in offers(http)[:11]:
        assert ask(FOREIGN | bearer(KEY)).status_code == 403
    simple = http.post("/webrtc", content="{}", headers=FOREIGN | {"Content-Type": "text/plain"})
    assert simple.status_code == 403 and "access-control-allow-origin" not in simple.headers
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(connect_from("https://elsewhere.example", locked))
    assert refused.value.response.status_code == 403
    own = {"Origin": f"http://{locked.address}"} | bearer(KEY)
    assert http.post("/v1/tokens", headers=own).status_code == 200


async def connect_from(origin: str, server: RunningServer) -> None:
    async with connect(f"ws://{server.address}/ws", origin=origin, additional_headers=bearer(KEY), proxy=None):
        pass


def test_pages_that_are_named_are_let_in_and_told_so(http, locked):
    friend = {"Origin": "https://friend.example"}
    preflight = http.options(
        "/webrtc", headers=friend | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    )
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == "https://friend.example"
    answer = http.post("/v1/tokens", headers=friend | bearer(KEY))
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://friend.example"
    assert http.post("/v1/tokens", headers=friend).headers["access-control-allow-origin"], "so that the page can read why not"
    asyncio.run(connect_from("https://friend.example", locked))
    assert json.loads(http.post("/webrtc", json={}, headers=friend | bearer(KEY)).text)["reason"] == "bad_json"


def test_a_proxy_that_is_trusted_says_who_asks(start_server):
    """And an address has its own limits, that others do not share."""
    server = start_server(ASR_TARGET="onnxruntime", ASR_TRUSTED_PROXIES="127.0.0.0/8", ASR_REQUESTS_PER_MINUTE="1")

    def ask(address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return httpx.post(f"http://{server.address}/v1/tokens", headers=headers, trust_env=False).status_code

    assert [ask("192.0.2.1"), ask("192.0.2.1"), ask("192.0.2.2")] == [200, 429, 200]


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("10.1.2.3", True),
        ("localhost", True),
        ("a.localhost:1", True),
        ("", False),
        ("asr.example.com:8000", True),
        ("ASR.example.com", True),
        ("evil.example", False),
        ("[", False),
        ("localhost.evil.example", False),
    ],
)
def test_a_page_that_made_its_own_name_lead_here_is_known_by_that_name(host, known):
    assert is_known(host, hosts_of(Settings(access=Access(allowed_hosts="asr.example.com")), is_open=True)) == known


def test_who_has_no_keys_and_is_local_has_no_name_but_localhost():
    local, everywhere, proxied = (
        Settings(listen=Listen(host=host, trusted_proxies=proxies))
        for host, proxies in (("127.0.0.1", ()), ("0.0.0.0", ()), ("127.0.0.1", "127.0.0.1"))
    )
    assert not is_known("evil.example", hosts_of(local, is_open=True))
    for hosts in (hosts_of(local, is_open=False), hosts_of(everywhere, is_open=True), hosts_of(proxied, is_open=True)):
        assert is_known("evil.example", hosts)


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("", "")],
)
def test_whoever_has_an_ipv6_address_has_as_many_as_they_like(address, counted_as):
    assert network_of(address) == counted_as
