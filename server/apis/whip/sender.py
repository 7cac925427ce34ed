"""WHIP (RFC 9725): OBS, FFmpeg and browsers send an audio track; any number of readers get the words."""

import secrets

from aiortc import RTCDataChannel
from aiortc.sdp import candidate_from_sdp

from server.access import Caller
from server.apis.broadcast.broadcasts import Broadcast, Broadcasts, new_session_id
from server.apis.broadcast.session import BroadcastSession
from server.apis.native import messages
from server.apis.session_names import Owner
from server.errors import ServerError
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.telemetry.metrics import Api
from server.transports.webrtc import ice
from server.transports.webrtc.offers import MAX_CANDIDATES, BadOffer, OfferContents
from server.transports.webrtc.peer import Peer, WebRtcTransport


class Senders:
    """The senders of this process, by the names of their sessions."""

    def __init__(self, webrtc: WebRtcTransport, sessions: Sessions, broadcasts: Broadcasts, idle_seconds: float, owner: Owner):
        self.webrtc, self.sessions, self.broadcasts = webrtc, sessions, broadcasts
        self.idle_seconds, self.owner = idle_seconds, owner
        self._peers: dict[str, WhipPeer] = {}

    async def open(self, sdp: str, channel: str, caller: Caller) -> tuple["WhipPeer", str]:
        """Return the sender and the answer. channel: a name that readers know. Raises BadOffer or Refused."""
        OfferContents.read(sdp).check_tracks(most_audio=1, least_audio=1, video=True)
        peer = WhipPeer(self, channel, caller)
        answer = await peer.answer(sdp)
        peer.publish()
        return peer, answer

    def find_live(self, name: str) -> "WhipPeer | None":
        """Return the sender of a session that has not left."""
        peer = self._peers.get(name)
        return None if peer is None or peer.has_left else peer

    def keep(self, peer: "WhipPeer") -> None:
        self._peers[peer.name] = peer

    def forget(self, peer: "WhipPeer") -> None:
        self._peers.pop(peer.name, None)


class WhipPeer(Peer):
    """One sender. Its session outlives the connection until the final is written."""

    api = Api.WHIP
    ends_with_track = True
    waits_for_connection = True

    def __init__(self, senders: Senders, channel: str, caller: Caller):
        super().__init__(senders.webrtc, caller)
        self.channel = channel
        self.name = senders.owner.new_name()
        self.entity_tag = f'"{secrets.token_urlsafe(8)}"'
        self._senders = senders
        self._added_candidates = 0
        self._broadcast: Broadcast | None = None

    @property
    def has_left(self) -> bool:
        """True if the sender sends no more audio; its last words may still be on their way."""
        return self._broadcast is None or self._broadcast.has_left

    def open_session(self) -> Seat:
        """Open a session. Readers distinguish sessions by their ids, also those of different processes."""
        seat = self._senders.sessions.take_seat(
            self.api, self._caller, self.on_session_end, waits=True, session_id=new_session_id(self.api)
        )
        session = BroadcastSession(seat, self._senders.idle_seconds)
        self._broadcast = self._senders.broadcasts.begin(self.api, self.name, self.channel, session)
        self._senders.keep(self)
        return seat

    def publish(self) -> None:
        """Make the words readable under the name of the channel."""
        if self._broadcast is not None:
            self._senders.broadcasts.publish(self._broadcast)

    def written(self, error: ServerError) -> str:
        return messages.error(error).encode()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is None and self._broadcast is not None:
            self._broadcast.session.add_reader(self._outbox.send)
        super()._on_channel(channel)

    def receive(self, seat: Seat, message: str | bytes) -> None:
        """Ignore a message: a sender's data channel is only for words."""

    def leave(self) -> None:
        """Finish the session: its readers get the sender's words up to the end."""
        if self._seat is not None:
            self._seat.finish()

    def on_session_end(self) -> None:
        self._senders.forget(self)
        super().on_session_end()

    def end(self) -> None:
        """End the session at the sender's request."""
        self.leave()

    async def add_candidates(self, fragment: str) -> None:
        """Add the candidates of an SDP fragment (RFC 8840). Raises BadOffer."""
        middle = "0"
        for line in ice.with_usable_candidates(fragment, self._caller.address).splitlines():
            if line.startswith("a=mid:"):
                middle = line.removeprefix("a=mid:").strip()
            elif line.startswith("a=candidate:"):
                await self._add_candidate(line.removeprefix("a=candidate:").strip(), middle)

    async def _add_candidate(self, written: str, middle: str) -> None:
        self._added_candidates += 1
        if self._added_candidates > MAX_CANDIDATES:
            raise BadOffer(f"more than {MAX_CANDIDATES} candidates were sent")
        try:
            candidate = candidate_from_sdp(written)
        except (ValueError, IndexError, AssertionError) as exc:
            raise BadOffer("the fragment has a candidate that cannot be read") from exc
        candidate.sdpMid = middle
        await self._connection.addIceCandidate(candidate)
