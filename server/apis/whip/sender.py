"""WHIP (RFC 9725): OBS, FFmpeg and browsers send an audio track; whoever wants to reads the words."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Sequence

from aiortc import RTCDataChannel
from aiortc.sdp import candidate_from_sdp

from server.access import Caller
from server.apis.native import messages
from server.apis.session_names import Owner
from server.apis.whip.session import BroadcastSession
from server.errors import ServerError
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.stream.transcript import Segment
from server.telemetry.metrics import Api
from server.transports.outbox import MessageQueue, Outbox
from server.transports.webrtc import ice
from server.transports.webrtc.offers import MAX_CANDIDATES, BadOffer, OfferContents
from server.transports.webrtc.peer import Peer, WebRtcTransport

KEPT_SECONDS = 300.0  # of what was said, behind its end
PING_SECONDS = 15.0  # without words: the reader, and what lies between, learn that the stream is alive


class Senders:
    """The senders of this process, by the names of their sessions."""

    def __init__(self, webrtc: WebRtcTransport, sessions: Sessions, idle_seconds: float, owner: Owner):
        self.webrtc, self.sessions, self.idle_seconds, self.owner = webrtc, sessions, idle_seconds, owner
        self._peers: dict[str, WhipPeer] = {}
        self._channels: dict[str, WhipPeer] = {}

    async def open(self, sdp: str, channel: str, caller: Caller) -> tuple["WhipPeer", str]:
        """The sender and the answer. channel: a name that readers know. Raises BadOffer or Refused."""
        OfferContents.read(sdp).check_tracks(most_audio=1, least_audio=1, video=True)
        peer = WhipPeer(self, channel, caller)
        answer = await peer.answer(sdp)
        if channel:
            self._channels[channel] = peer
        return peer, answer

    def find(self, name: str) -> "WhipPeer | None":
        return self._peers.get(name)

    def find_channel(self, channel: str) -> "WhipPeer | None":
        """The last who has sent on it."""
        return self._channels.get(channel)

    def keep(self, peer: "WhipPeer") -> None:
        self._peers[peer.name] = peer

    def forget_later(self, peer: "WhipPeer") -> None:
        """The words can still be read for a while."""
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, peer)

    def _forget(self, peer: "WhipPeer") -> None:
        self._peers.pop(peer.name, None)
        if self._channels.get(peer.channel) is peer:
            del self._channels[peer.channel]


class WhipPeer(Peer):
    """One sender. Its session outlives the connection until the final is told."""

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
        self._broadcast: BroadcastSession | None = None

    @property
    def has_left(self) -> bool:
        """The sender sends no more; what it said may be on its way still."""
        return self._broadcast is None or self._broadcast.is_finishing

    @property
    def segments(self) -> Sequence[Segment]:
        """Segments that are closed so far."""
        return self._broadcast.segments if self._broadcast else ()

    def open_session(self) -> Seat:
        """Readers tell sessions apart by their ids, whichever process they were in."""
        seat = self._senders.sessions.take_seat(
            self.api, self._caller, self.on_session_end, waits=True, session_id=f"broadcast-{uuid.uuid4()}"
        )
        self._broadcast = BroadcastSession(seat, self._senders.idle_seconds)
        self._senders.keep(self)
        return seat

    def written(self, error: ServerError) -> str:
        return messages.error(error).encode()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is None and self._broadcast is not None:
            self._broadcast.add_reader(self._outbox.send)
        super()._on_channel(channel)

    def receive(self, seat: Seat, message: str | bytes) -> None:
        """A sender's data channel is for words alone."""

    def leave(self) -> None:
        """Finish the session: its readers get what the sender said to the end."""
        if self._seat is not None:
            self._seat.finish()

    def on_session_end(self) -> None:
        self._senders.forget_later(self)
        super().on_session_end()

    def end(self) -> None:
        """The sender asks for it."""
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

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: the messages of the data channel, from the text so far to the final."""
        assert self._broadcast is not None, "it was opened before anybody knows the name"
        unsent = MessageQueue()

        def give_up(_: ServerError) -> None:
            unsent.end()

        outbox = Outbox(self.api, unsent, self._transport.metrics, asyncio.get_running_loop().time, give_up)
        remove = self._broadcast.add_reader(outbox.send, unsent.end)
        try:
            async for text in until_ended(unsent):
                yield text
        finally:
            remove()


async def until_ended(unsent: MessageQueue) -> AsyncIterator[str]:
    while True:
        try:
            text = await asyncio.wait_for(unsent.next(), PING_SECONDS)
        except TimeoutError:
            yield ": ping\n\n"
            continue
        if text is None:
            return
        yield f"data: {text}\n\n"
