"""The WebRTC transport: its configuration, and what peers and networks do that they should not."""

import asyncio
import dataclasses
import datetime
import json
import random
import re
import socket
from collections.abc import Callable, Iterator

import pytest
from aioice import stun
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, rtcpeerconnection
from aiortc.rtcdtlstransport import RTCCertificate
from aiortc.rtcicetransport import connection_kwargs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.access import ANYONE, Caller
from server.apis.native.peer import NativePeer, has_track
from server.errors import ServerError
from server.sessions.registry import Sessions
from server.settings import Ice, IceServer
from server.telemetry.metrics import Metrics
from server.transports.webrtc import ice
from server.transports.webrtc.offers import MAX_CANDIDATES, MAX_SECTIONS, BadOffer, OfferContents
from server.transports.webrtc.peer import WebRtcTransport, ice_server
from tests.server.sessions.test_registry import INIT, LIMITS, SERVER, FakeTranscriber, make_sessions

LONGEST_WAIT_SECONDS = 10.0


@pytest.mark.parametrize(
    ("text", "address", "credentials"),
    [
        ("stun:a.example", ("a.example", 3478), None),
        ("stun:a.example:19302", ("a.example", 19302), None),
        ("turn:user:p%40ss@b.example:3479", ("b.example", 3479), ("user", "p@ss")),
        ("turns:user:pass@b.example:5349", ("b.example", 5349), ("user", "pass")),
    ],
)
def test_a_server_that_the_settings_take_is_one_that_aiortc_takes(text, address, credentials):
    """stun:foo:bar used to start, and then every offer was called the client's mistake."""
    arguments = connection_kwargs([ice_server(IceServer.parse(text))])
    assert arguments.get("stun_server", arguments.get("turn_server")) == address
    if credentials:
        assert (arguments["turn_username"], arguments["turn_password"]) == credentials


@dataclasses.dataclass
class Served:
    """What answers offers in the server's own protocol."""

    transport: WebRtcTransport
    sessions: Sessions

    async def answer(self, sdp: str, caller: Caller) -> str:
        peer = NativePeer(self.transport, caller, self.sessions, LIMITS, SERVER, has_track(sdp))
        return await peer.answer(sdp)


class Peer:
    """A client of this process, as odd as the test wants it."""

    def __init__(self, **channel: object):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.connection.createDataChannel("audio", **channel)
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.channel.on("open", self.opened.set)
        self.channel.on("message", lambda text: self.messages.put_nowait(json.loads(text)))

    async def connect(
        self,
        served: "Served",
        spoil: Callable[[str], str] = lambda sdp: sdp,
        on_answer: Callable[[str], None] = lambda sdp: None,
    ) -> None:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        answer = await served.answer(spoil(self.connection.localDescription.sdp), ANYONE)
        on_answer(answer)
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await self.opened.wait()

    async def send(self, protocol: int, data: bytes) -> None:
        """Whatever it is, on the channel's stream."""
        await self.connection.sctp._send(self.channel.id, protocol, data)


def play(scenario: Callable, connect_seconds: float = 3.0) -> None:
    async def run() -> None:
        sessions, metrics = make_sessions(FakeTranscriber()), Metrics()
        sessions.start()
        transport = WebRtcTransport(metrics, Ice(), connect_seconds)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await scenario(Served(transport, sessions), metrics)
        await sessions.shut_down(1.0)
        await transport.close()

    asyncio.run(run())


@pytest.mark.parametrize("odd", [{"ordered": False}, {"maxRetransmits": 0}, {"maxPacketLifeTime": 100}])
def test_a_channel_that_would_scramble_audio_is_refused_by_name(odd):
    async def scenario(served: Served, metrics: Metrics) -> None:
        peer = Peer(**odd)
        await peer.connect(served)
        assert (await peer.messages.get())["reason"] == "unreliable_channel"
        await peer.connection.close()

    play(scenario)


TEXT, CONTROL = 51, 50


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        (TEXT, b"\xff\xfe"),  # no UTF-8
        (CONTROL, b"\x03\x00\x00\x00" + bytes(8)),  # opened twice
    ],
)
def test_what_makes_no_sense_on_a_channel_is_answered(protocol, data):
    async def scenario(served: Served, metrics: Metrics) -> None:
        peer = Peer()
        await peer.connect(served)
        peer.channel.send(INIT)
        assert (await peer.messages.get())["op"] == "ready"
        await peer.send(protocol, data)
        assert (await peer.messages.get())["reason"] == "bad_message"
        await peer.connection.close()

    play(scenario)


def test_control_messages_for_no_channel_harm_nobody():
    async def scenario(served: Served, metrics: Metrics) -> None:
        peer = Peer()
        await peer.connect(served)
        open_with_a_bad_label = b"\x03\x00\x00\x00" + bytes(4) + b"\x00\x02\x00\x00" + b"\xff\xff"
        for data in (b"\x02", open_with_a_bad_label, b"\x03"):
            await peer.connection.sctp._send(9, CONTROL, data)
        peer.channel.send(INIT)
        assert (await peer.messages.get())["op"] == "ready"
        await peer.connection.close()

    play(scenario)


def test_an_offer_that_names_no_candidates_can_still_be_reached_from_it():
    """RFC 8863: the server's candidates may be enough."""

    async def scenario(served: Served, metrics: Metrics) -> None:
        peer = Peer()
        await peer.connect(served, lambda sdp: re.sub(r"a=candidate:.*\r\n", "", sdp))
        peer.channel.send(INIT)
        assert (await peer.messages.get())["op"] == "ready"
        await peer.connection.close()

    play(scenario)


def test_an_offer_whose_sender_never_comes_is_given_up():
    async def scenario(served: Served, metrics: Metrics) -> None:
        peer = Peer()
        await peer.connection.setLocalDescription(await peer.connection.createOffer())
        await served.answer(peer.connection.localDescription.sdp, ANYONE)
        assert len(served.sessions) == 1
        while len(served.sessions):  # noqa: ASYNC110 - the transport offers nothing to wait on
            await asyncio.sleep(0.01)
        assert 'asr_offers_refused_total{reason="connect_timeout"} 1.0' in metrics.render().decode()
        await peer.connection.close()

    play(scenario, connect_seconds=0.1)


def candidate(host: str) -> str:
    return f"a=candidate:1 1 udp 2130706431 {host} 50000 typ host\r\n"


HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
SECTION = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n"


def test_nobody_has_the_server_send_to_addresses_of_their_choice():
    hosts = ("10.0.0.5", "127.0.0.1", "169.254.169.254", "192.168.1.9", "fd00::1", "abc.local", "8.8.8.8")
    sdp = "v=0\r\n" + "".join(map(candidate, hosts)) + "a=end-of-candidates\r\n"
    from_afar = ice.with_usable_candidates(sdp, "8.8.4.4")
    assert from_afar == "v=0\r\n" + candidate("8.8.8.8")
    odd = ["a=candidate:1  1 udp 1 10.0.0.5 5000 typ host", "a=candidate:1 1 udp 1 224.0.0.251 5000 typ host", "a=candidate:1"]
    for separator in ("\r", "\x0b", "\n"):
        spoilt = separator.join(odd)
        assert ice.with_usable_candidates(spoilt, "8.8.4.4") == "" and ice.count_candidates(spoilt) == len(odd)
    assert ice.with_usable_candidates(sdp, "192.168.1.7").count("candidate:") == len(hosts), "a neighbour's are its own"
    with pytest.raises(BadOffer, match="candidates"):
        OfferContents.read(HEAD + SECTION + candidate("8.8.8.8") * (MAX_CANDIDATES + 1))


def test_an_offer_of_many_sections_is_refused_before_any_is_looked_at():
    with pytest.raises(BadOffer, match="16 media sections"):
        OfferContents.read(HEAD + SECTION + "m=video 0 UDP/TLS/RTP/SAVPF 97\r\n" * MAX_SECTIONS)


def test_a_section_that_the_offer_itself_rejects_is_none():
    head = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    rejected = "m=audio 0 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"
    bundled = rejected.replace("mid:0", "mid:1") + "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=bundle-only\r\n"
    assert OfferContents.read(head + rejected).audio == 0
    assert OfferContents.read(head + rejected + bundled).audio == 1


def offered() -> list[str]:
    """The lines of an offer with a data channel and an audio track."""

    async def make() -> str:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.createDataChannel("audio")
        connection.addTransceiver("audio", "sendonly")
        await connection.setLocalDescription(await connection.createOffer())
        sdp = connection.localDescription.sdp
        await connection.close()
        return sdp

    return asyncio.run(make()).splitlines()


OFFER = offered()
KINDS = ("drop", "double", "replace", "insert", "word")
LINES = (
    "m=audio 0 UDP/TLS/RTP/SAVPF 111",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "a=setup:passive",
    "a=ice-ufrag:",
    "a=fingerprint:sha-256 00",
    "a=sctp-port:0",
    "a=rtpmap:111 x/0",
    "a=group:BUNDLE 7",
    "a=mid:",
    "t=x",
    "m=",
    "c=IN IP4 x",
)
JUNK = st.one_of(st.text(max_size=12), st.sampled_from(LINES))
MUTATIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 200), JUNK), min_size=1, max_size=4)


def mutated(lines: list[str], mutations: list[tuple[str, int, str]]) -> str:
    lines = list(lines)
    for kind, number, junk in mutations:
        place = number % len(lines)
        match kind:
            case "drop":
                del lines[place]
            case "double":
                lines.insert(place, lines[place])
            case "replace":
                lines[place] = junk
            case "insert":
                lines.insert(place, junk)
            case "word":
                words = lines[place].split(" ")
                words[number % len(words)] = junk
                lines[place] = " ".join(words)
    return "".join(f"{line}\r\n" for line in lines)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(MUTATIONS)
def test_a_spoilt_offer_is_answered_or_refused_by_name_and_leaves_nothing(mutations):
    async def scenario(served: Served, metrics: Metrics) -> None:
        try:
            answer = await served.answer(mutated(OFFER, mutations), ANYONE)
            assert "a=candidate:" in answer or "m=application 0" in answer
        except ServerError as refused:
            assert refused.code.http_status < 500
            assert len(served.sessions) == 0

    play(scenario, connect_seconds=0.2)


def strange_datagrams(seed: int = 0, count: int = 300) -> Iterator[bytes]:
    """Datagrams as ICE, DTLS and RTP have them, from somebody who knows no secret: whole, changed and cut off."""
    chance = random.Random(seed)
    binding = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    binding.attributes |= {"USERNAME": "abcd:efgh", "PRIORITY": 1, "ICE-CONTROLLING": 1, "USE-CANDIDATE": None}
    binding.add_message_integrity(b"guessed")
    alerts = [b"\x15\xfe\xfd" + bytes(8) + b"\0\2" + bytes(pair) for pair in ((1, 0), (2, 10), (2, 80))]
    hello = b"\x16\xfe\xff" + bytes(8) + b"\0\x38" + b"\1\0\0\x2c" + bytes(4) + b"\0\0\x2c\xfe\xfd" + bytes(42)
    rtp, rtcp = b"\x80\x6f\0\1" + bytes(60), b"\x81\xcb\0\1" + bytes(4)
    whole = [b"", b"\0", bytes(20), bytes(binding), *alerts, hello, rtp, rtcp, b"x" * 1400]
    yield from whole
    for _ in range(count):
        datagram = bytearray(chance.choice(whole)[: chance.randrange(1, 1500)] or b"\0")
        for _ in range(chance.randrange(4)):
            datagram[chance.randrange(len(datagram))] = chance.randrange(256)
        yield bytes(datagram)
    yield b""


@pytest.mark.parametrize("connected", [True, False], ids=["in a session", "while it connects"])
def test_datagrams_of_strangers_change_nothing(connected):
    """An empty one used to end the session of whoever had the port."""

    async def scenario(served: Served, metrics: Metrics) -> None:
        peer, sending = Peer(), []

        def disturb(answer: str) -> None:
            sending.append(asyncio.create_task(send_strange_datagrams(answer)))

        await peer.connect(served, on_answer=disturb if not connected else lambda answer: None)
        if connected:
            disturb(peer.connection.remoteDescription.sdp)
        await asyncio.gather(*sending)
        peer.channel.send(INIT)
        assert (await peer.messages.get())["op"] == "ready"
        peer.channel.send('{"op":"close"}')
        assert (await peer.messages.get())["op"] == "final", "the session is still there"
        await peer.connection.close()

    play(scenario)


async def send_strange_datagrams(answer: str) -> None:
    """Send them to each of the answer's addresses, a few in each turn of the event loop."""
    candidates = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", answer)
    assert candidates
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for datagram in strange_datagrams():
            for host, port in candidates:
                if ":" not in host:
                    stranger.sendto(datagram, (host, int(port)))
            await asyncio.sleep(0.001)


def rsa_certificate() -> RTCCertificate:
    """As GStreamer makes them."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    cert = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())

    class Rsa(RTCCertificate):
        def _create_ssl_context(self, srtp_profiles):
            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
            return context

    return Rsa(key=key, cert=cert)


@pytest.mark.parametrize("role", ["actpass", "active"])
def test_a_peer_with_an_rsa_certificate_connects_in_both_roles(role, monkeypatch):
    """GStreamer's senders met "no shared cipher"."""

    async def scenario(served: Served, metrics: Metrics) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(rtcpeerconnection.RTCCertificate, "generateCertificate", staticmethod(rsa_certificate))
            peer = Peer()
        await peer.connect(served, lambda sdp: sdp.replace("a=setup:actpass", f"a=setup:{role}"))
        peer.channel.send(INIT)
        assert (await peer.messages.get())["op"] == "ready"
        await peer.connection.close()

    play(scenario)


def test_an_offer_without_a_fingerprint_is_refused_by_name():
    async def scenario(served: Served, metrics: Metrics) -> None:
        with pytest.raises(BadOffer, match="no fingerprint"):
            await Peer().connect(served, lambda sdp: re.sub(r"a=fingerprint:.*\r\n", "", sdp))

    play(scenario)
