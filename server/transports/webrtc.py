"""The WebRTC transport: an SDP offer in, its answer out, then a data channel that carries audio and JSON."""

import asyncio
import enum
import logging
from collections.abc import Callable

from aiortc import InvalidStateError, RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription

from server.dialects import native
from server.errors import ClientError, Code, ServerError
from server.session.native import Session
from server.sessions import Sessions
from server.settings import IceServer
from server.telemetry.metrics import Api, Metrics
from server.transports import webrtc_sctp
from server.transports.outbox import Outbox, TooLong

logger = logging.getLogger(__name__)

LINGER_SECONDS = 5.0  # for the last messages to arrive before the connection is torn down
SECOND_CHANNEL = ClientError(Code.ALREADY_INITIALISED, "a connection carries one stream; open another connection")
UNUSABLE = (ValueError, KeyError, IndexError, AttributeError, AssertionError, InvalidStateError)
"""What aiortc raises on a description that it parsed and cannot use."""


class BadOffer(ClientError):
    """The offer cannot be answered; the message says what is wrong with it."""

    def __init__(self, message: str):
        super().__init__(Code.BAD_OFFER, message)


class WebRtcTransport:
    """Answers offers and keeps their connections until they end."""

    def __init__(self, sessions: Sessions, metrics: Metrics, ice_servers: tuple[IceServer, ...]):
        webrtc_sctp.install()
        self._sessions = sessions
        self._metrics = metrics
        self._configuration = RTCConfiguration(iceServers=[ice_server(server) for server in ice_servers])
        self._peers: set[Peer] = set()

    async def answer(self, sdp: str) -> RTCSessionDescription:
        """Raises BadOffer, or Refused when there is no room."""
        check_offer(sdp)
        connection = RTCPeerConnection(self._configuration)
        peer = Peer(connection, self._sessions, self._metrics, self._peers.discard)
        self._peers.add(peer)
        try:
            peer.open()
            await connection.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
            await connection.setLocalDescription(await connection.createAnswer())
        except BaseException as exc:
            await peer.drop()
            if isinstance(exc, UNUSABLE):
                raise BadOffer(f"the SDP offer cannot be used: {exc}") from exc
            raise
        return connection.localDescription

    async def close(self) -> None:
        """Tear down what is left, after the sessions have ended."""
        await asyncio.gather(*(peer.finish() for peer in list(self._peers)))


class PeerState(enum.Enum):
    CONNECTING = "connecting"
    OPEN = "open"
    FINISHING = "finishing"
    """The session has said its last; the channel is being closed behind it."""
    CLOSED = "closed"


class Peer:
    """One connection: its data channel and the session behind it."""

    def __init__(self, connection: RTCPeerConnection, sessions: Sessions, metrics: Metrics, forget: Callable[["Peer"], None]):
        self._connection = connection
        self._sessions = sessions
        self._forget = forget
        self._channel: RTCDataChannel | None = None
        self._session: Session | None = None
        self._outbox = Outbox(Api.WEBRTC, self, metrics, asyncio.get_running_loop().time, self._give_up)
        self._state = PeerState.CONNECTING
        self._channel_closed = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Take a place among the sessions. Raises Refused."""
        self._session = self._sessions.open(self._outbox.send, self._on_session_end)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)

    # What the client does

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            channel.send(native.error(SECOND_CHANNEL).encode())
            channel.close()
            return
        self._channel, self._state = channel, PeerState.OPEN
        channel.on("message", self._on_message)
        channel.on("close", self._on_channel_close)

    def _on_message(self, message: str | bytes) -> None:
        if self._session is None:
            return
        if isinstance(message, str):
            self._sessions.text(self._session, message)
        else:
            self._sessions.audio(self._session, message)

    def _on_channel_close(self) -> None:
        self._channel_closed.set()
        self._leave()
        self.finish()

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._leave()
            self.finish()

    def _on_session_end(self) -> None:
        self.finish()

    def _leave(self) -> None:
        if self._session is not None:
            self._sessions.leave(self._session)

    def _give_up(self, error: ServerError) -> None:
        """Failing sends one more message, so it must not happen inside the sending of another."""
        if self._session is not None:
            asyncio.get_running_loop().call_soon(self._session.fail, error)

    # The wire of its outbox

    @property
    def is_open(self) -> bool:
        return self._channel is not None and self._channel.readyState == "open"

    @property
    def unsent_bytes(self) -> int:
        return self._channel.bufferedAmount if self._channel else 0

    def send(self, text: str) -> bool:
        assert self._channel is not None, "the outbox asks is_open first"
        try:
            self._channel.send(text)
        except ValueError as exc:
            raise TooLong from exc
        except InvalidStateError:
            return False  # the channel is closing; its close event does the rest
        return True

    # How it ends

    def finish(self) -> "asyncio.Task[None]":
        """The session has said its last: close the channel behind it (aiortc flushes first), then the connection."""
        if self._finishing is None:
            self._finishing = asyncio.create_task(self._linger())
        return self._finishing

    async def _linger(self) -> None:
        if self._state is PeerState.OPEN and self._channel is not None and self._channel.readyState == "open":
            self._state = PeerState.FINISHING
            self._channel.close()
            try:
                await asyncio.wait_for(self._channel_closed.wait(), LINGER_SECONDS)
            except TimeoutError:
                logger.info("a client did not confirm the end of its channel within %g s", LINGER_SECONDS)
        await self.drop()

    async def drop(self) -> None:
        """Tear the connection down."""
        if self._state is PeerState.CLOSED:
            return
        self._state = PeerState.CLOSED
        self._leave()
        try:
            await self._connection.close()
        finally:
            self._forget(self)


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
    return RTCIceServer(urls=server.url, username=server.username, credential=server.password)
