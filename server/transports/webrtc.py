"""The WebRTC transport: an SDP offer in, its answer out, then a data channel that carries audio and JSON."""

import asyncio
import logging
from collections.abc import Iterator

from aiortc import InvalidStateError, RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription

from server.dialects import native
from server.dialects.native import Reason
from server.session import Session
from server.sessions import Hub
from server.settings import IceServer
from server.telemetry.metrics import Metrics
from server.transports import webrtc_sctp

logger = logging.getLogger(__name__)

HIGH_MARK_BYTES = 256 * 1024  # of unsent messages: interims are dropped, the next one says more
SLOW_SECONDS = 15.0  # above the high mark for so long: the client does not read at all
LINGER_SECONDS = 5.0  # for the last messages to arrive before the connection is torn down


class BadOffer(Exception):
    """The offer cannot be answered; the message says what is wrong with it."""


class WebRtcTransport:
    """Answers offers and keeps their connections until they end."""

    def __init__(self, hub: Hub, metrics: Metrics, ice_servers: tuple[IceServer, ...]):
        webrtc_sctp.install()
        self._hub = hub
        self._metrics = metrics
        self._configuration = RTCConfiguration(iceServers=[ice_server(server) for server in ice_servers])
        self._peers: set[Peer] = set()

    async def answer(self, sdp: str) -> RTCSessionDescription:
        """Raises BadOffer, or Refused when there is no room."""
        check_offer(sdp)
        connection = RTCPeerConnection(self._configuration)
        peer = Peer(connection, self._hub, self._metrics, self._peers.discard)
        self._peers.add(peer)
        try:
            peer.open()
            await connection.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
            await connection.setLocalDescription(await connection.createAnswer())
        except BaseException as exc:
            await peer.close()
            if isinstance(exc, (ValueError, KeyError, IndexError, AttributeError, AssertionError, InvalidStateError)):
                raise BadOffer(f"the SDP offer cannot be used: {exc}") from exc  # aiortc's own check of what it parsed
            raise
        return connection.localDescription

    async def close(self) -> None:
        """Tear down what is left, after the sessions have ended."""
        await asyncio.gather(*(peer.end() for peer in list(self._peers)))


class Peer:
    """One connection: its data channel and the session behind it."""

    def __init__(self, connection: RTCPeerConnection, hub: Hub, metrics: Metrics, forget):
        self._connection = connection
        self._hub = hub
        self._metrics = metrics
        self._forget = forget
        self._channel: RTCDataChannel | None = None
        self._session: Session | None = None
        self._ended = asyncio.Event()
        self._closing: asyncio.Task | None = None
        self._slow_since: float | None = None  # when the unsent messages rose above the high mark

    def open(self) -> None:
        """Take a place among the sessions. Raises Refused."""
        self._session = self._hub.open(self._send, self.end)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            refusal = native.error(Reason.ALREADY_INITIALISED, "a connection carries one stream; open another connection")
            channel.send(native.encode(refusal))
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._on_message)
        channel.on("close", self._on_channel_close)

    def _on_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._hub.text(self._session, message)
        else:
            self._hub.audio(self._session, message)

    def _on_channel_close(self) -> None:
        self._hub.leave(self._session)
        self.end()

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._hub.leave(self._session)
            self.end()

    def _send(self, message: dict) -> bool:
        """False where the message was dropped."""
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return False
        if message["op"] == "interim" and self._is_behind(channel):
            self._metrics.interims_dropped_total.inc()
            return False
        for form in shorter_forms(message):
            try:
                channel.send(native.encode(form))
                return True
            except ValueError:
                continue  # longer than the client said it can take
            except InvalidStateError:
                return False  # the channel is closing; its close event does the rest
        return False

    def _is_behind(self, channel: RTCDataChannel) -> bool:
        """Does the client read more slowly than it is written to? One that does so for long is given up."""
        if channel.bufferedAmount <= HIGH_MARK_BYTES:
            self._slow_since = None
            return False
        loop = asyncio.get_running_loop()
        self._slow_since = self._slow_since or loop.time()
        if loop.time() - self._slow_since > SLOW_SECONDS:
            # Failing sends one more message, so it must not happen inside this one.
            loop.call_soon(self._session.fail, Reason.SLOW_READER, "messages are not read; the connection is given up")
        return True

    def end(self) -> asyncio.Task:
        """The session has said its last: close the channel behind it (aiortc flushes first), then the connection."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._linger())
        return self._closing

    async def _linger(self) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.on("close", self._ended.set)
            self._channel.close()
            try:
                await asyncio.wait_for(self._ended.wait(), LINGER_SECONDS)
            except TimeoutError:
                logger.info("a client did not confirm the end of its channel within %g s", LINGER_SECONDS)
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            self._hub.leave(self._session)
        try:
            await self._connection.close()
        finally:
            self._forget(self)


def shorter_forms(message: dict) -> Iterator[dict]:
    """The message, and what to send in its place where it is longer than the client takes."""
    yield message
    if message["op"] == "final":
        without_words = {name: value for name, value in message.items() if name != "words"}  # they are in the segments, too
        yield without_words
        yield without_words | {"segments": []}
    if message["op"] != "interim":  # the next one will be as long; the final says that the text is
        yield native.error(Reason.TEXT_TOO_LONG, "the text is longer than a message to this client may be")


def check_offer(sdp: str) -> None:
    """Raises BadOffer."""
    try:
        description = SessionDescription.parse(sdp)
    except Exception as exc:  # aiortc's parser raises whatever the text made it stumble over
        raise BadOffer("sdp is not a session description") from exc
    if not description.media:
        raise BadOffer("sdp is not a session description: it has no media section")
    if not any(media.kind == "application" for media in description.media):
        raise BadOffer("the offer has no data channel; audio is sent over one")
    if any(media.kind != "application" for media in description.media):
        # aiortc would decode the tracks into queues that nobody reads.
        raise BadOffer("the offer has audio or video tracks; send PCM16 over the data channel instead")


def ice_server(server: IceServer) -> RTCIceServer:
    username, credential = server.credentials
    return RTCIceServer(urls=server.url, username=username, credential=credential)
