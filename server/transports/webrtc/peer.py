"""The WebRTC transport: it answers an SDP offer, then receives audio over a data channel or a track, and exchanges JSON."""

import abc
import asyncio
import enum
import logging
from typing import ClassVar

from aiortc import (
    InvalidStateError,
    MediaStreamTrack,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, OperationError

from server.access import Caller
from server.errors import ClientError, Code, Refused, ServerError
from server.sessions.seat import BEHIND_SHARE, Seat
from server.settings import Ice, IceServer
from server.telemetry.metrics import Api, Metrics
from server.transports.outbox import Outbox, TooLong
from server.transports.webrtc import audio_track, dtls, ice, ports, sctp, udp
from server.transports.webrtc.offers import BadOffer
from server.transports.webrtc.session_description import with_rejected, without_rejected

logger = logging.getLogger(__name__)

LINGER_SECONDS = 5.0  # for the last messages to arrive before the connection is closed
SECOND_CHANNEL = ClientError(Code.ALREADY_INITIALISED, "a connection carries one stream; open another connection")
NO_MESSAGE = ClientError(Code.BAD_MESSAGE, "a message is neither UTF-8 text nor binary, or the channel was opened twice")
UNRELIABLE = ClientError(Code.UNRELIABLE_CHANNEL, "the channel must be ordered and reliable: audio would be scrambled or missing")
UNUSABLE = (
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    InvalidStateError,
    OperationError,
    InvalidAccessError,
)
"""Errors that aiortc raises on a description that it parsed and cannot use."""


class WebRtcTransport:
    """Answers offers and keeps their connections until they end."""

    def __init__(self, metrics: Metrics, settings: Ice, connect_seconds: float = 3.0):
        """connect_seconds: time after which an offer is given up if its connection is not there."""
        dtls.install()
        sctp.install()
        ports.install(settings)
        self.advertised_address = settings.advertised_address
        self.metrics = metrics
        self.connect_seconds = connect_seconds
        self.ice_servers = ice.IceServers([ice_server(server) for server in settings.servers])
        self._peers: set[Peer] = set()

    def new_connection(self) -> RTCPeerConnection:
        return RTCPeerConnection(self.ice_servers.configuration)

    def keep(self, peer: "Peer") -> None:
        """Keep the peer until forget()."""
        self._peers.add(peer)

    def forget(self, peer: "Peer") -> None:
        self._peers.discard(peer)

    async def close(self) -> None:
        """Close the remaining connections, after the sessions have ended."""
        await asyncio.gather(*(peer.finish() for peer in list(self._peers)))


class PeerState(enum.Enum):
    CONNECTING = "connecting"
    OPEN = "open"
    FINISHING = "finishing"
    """The session has sent its last message; the channel is being closed after it."""
    CLOSED = "closed"


class Peer(abc.ABC):
    """One connection: its data channel, its audio track, and the seat of its session."""

    api: ClassVar[Api]
    ends_with_track: ClassVar[bool] = False
    """Whether the end of the audio track is the end of the session."""
    waits_for_connection: ClassVar[bool] = False
    """Whether the session takes its place when the connection is there; else the session itself takes it."""

    def __init__(self, transport: WebRtcTransport, caller: Caller):
        self._transport = transport
        self._caller = caller
        self._seat: Seat | None = None
        self._connection = transport.new_connection()
        self._channel: RTCDataChannel | None = None
        self._outbox = Outbox(self.api, self, transport.metrics, asyncio.get_running_loop().time, self._give_up)
        self._early: list[str] = []  # messages sent before the channel was open
        self._state = PeerState.CONNECTING
        self._channel_closed = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._holding_back: asyncio.Task[None] | None = None

    async def answer(self, sdp: str) -> str:
        """Return the answer to an offer that was checked. Raises BadOffer, or Refused when there is no room."""
        self._transport.keep(self)
        try:
            self._seat = self.open_session()
            return await self._connect(sdp)
        except BaseException as exc:
            await self.drop()
            if isinstance(exc, udp.Unreachable):
                self._transport.metrics.refused_total.labels(exc.code.value).inc()
            if isinstance(exc, UNUSABLE):
                raise BadOffer(f"the SDP offer cannot be used: {exc}") from exc
            raise

    async def _connect(self, sdp: str) -> str:
        connection = self._connection
        connection.on("datachannel", self._on_channel)
        connection.on("track", self._on_track)
        connection.on("connectionstatechange", self._on_state)
        offer, rejected = without_rejected(ice.with_usable_candidates(sdp, self._caller.address))
        await connection.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        answer = ports.advertised(connection.localDescription.sdp, self._transport.advertised_address)
        asyncio.get_running_loop().call_later(self._transport.connect_seconds, self._give_up_waiting)
        return with_rejected(answer, rejected)

    def _give_up_waiting(self) -> None:
        """Give up an offer that never connected, so that others can have its place."""
        if self._connection.connectionState in ("new", "connecting"):
            self._transport.metrics.refused_total.labels(Code.CONNECT_TIMEOUT.value).inc()
            if self._seat is not None:
                self._seat.leave()
            self.finish()

    # Implemented by each kind of connection

    @abc.abstractmethod
    def open_session(self) -> Seat:
        """Make the session; on_session_end is called after its last message. Raises Refused."""

    @abc.abstractmethod
    def written(self, error: ServerError) -> str:
        """Return an error as a message of the session's API."""

    def receive(self, seat: Seat, message: str | bytes) -> None:
        """Pass on a message of the data channel."""
        if isinstance(message, str):
            seat.receive_text(message)
        else:
            seat.receive_audio(message)

    # Events of the client

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            channel.send(self.written(SECOND_CHANNEL))
            channel.close()
            return
        self._channel, self._state = channel, PeerState.OPEN
        channel.on(sctp.MALFORMED, lambda: self._give_up(NO_MESSAGE))
        self._association.deliver_to(channel, self._receive)
        channel.on("close", self._on_channel_close)
        for text in self._early:
            self.send(text)
        self._early.clear()
        if not is_reliable(channel):
            self._give_up(UNRELIABLE)

    def _receive(self, message: str | bytes) -> None:
        if (seat := self._seat) is None:
            return
        self.receive(seat, message)
        if self._holding_back is None and seat.is_behind:
            self._association.hold_back()
            self._holding_back = asyncio.create_task(self._let_go_on(seat))

    @property
    def _association(self) -> sctp.PatientSctpTransport:
        """The transport of the data channel, once there is one."""
        association = self._connection.sctp
        assert isinstance(association, sctp.PatientSctpTransport), "it was installed, and the channel came over it"
        return association

    async def _let_go_on(self, seat: Seat) -> None:
        """Let the sender go on, but not after every message: it has to send dropped data again, with ever longer delays."""
        await seat.until_waiting(BEHIND_SHARE / 2)
        self._holding_back = None
        await self._association.go_on()

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._listening = asyncio.create_task(self._receive_track(track))

    async def _receive_track(self, track: MediaStreamTrack) -> None:
        async for pcm in audio_track.received(track):
            if self._seat is not None:
                self._seat.receive_audio(pcm)
        if self.ends_with_track:
            self.leave()

    def _on_channel_close(self) -> None:
        self._channel_closed.set()
        self.leave()
        self.finish()

    def _on_state(self) -> None:
        match self._connection.connectionState:
            case "connected":
                if self.waits_for_connection:
                    self._take_place()
            case "failed" | "closed":
                self.leave()
                self.finish()

    def _take_place(self) -> None:
        if self._seat is not None:
            try:
                self._seat.take_places()
            except Refused as refused:
                self._seat.fail(refused)

    def on_session_end(self) -> None:
        """Close the connection after the session's last message."""
        self.finish()

    def leave(self) -> None:
        """End the seat's session: the client has gone."""
        if self._seat is not None:
            self._seat.leave()

    def _give_up(self, error: ServerError) -> None:
        if self._seat is not None:
            self._seat.fail_soon(error)

    # The transport of its outbox

    @property
    def is_open(self) -> bool:
        if self._state is PeerState.CONNECTING:
            return True
        return self._channel is not None and self._channel.readyState == "open"

    @property
    def unsent_bytes(self) -> int:
        return self._channel.bufferedAmount if self._channel else sum(map(len, self._early))

    def send(self, text: str) -> bool:
        if self._channel is None:
            self._early.append(text)
            return True
        try:
            self._channel.send(text)
        except ValueError as exc:
            raise TooLong from exc
        except InvalidStateError:
            return False  # the channel is closing; its close event does the rest
        return True

    # The end

    def finish(self) -> "asyncio.Task[None]":
        """Close the channel after the session's last message (aiortc flushes first), then the connection."""
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
        """Close the connection at once."""
        if self._state is PeerState.CLOSED:
            return
        self._state = PeerState.CLOSED
        self.leave()
        if self._listening is not None:
            self._listening.cancel()
        try:
            await self._connection.close()
        except UNUSABLE as exc:  # aiortc cannot close a connection that it failed to make
            logger.info("a connection that never came to be could not be closed: %r", exc)
        finally:
            self._transport.forget(self)


def is_reliable(channel: RTCDataChannel) -> bool:
    return channel.ordered and channel.maxRetransmits is None and channel.maxPacketLifeTime is None


def ice_server(server: IceServer) -> RTCIceServer:
    return RTCIceServer(urls=server.url, username=server.username, credential=server.password)
