"""OpenAI's Realtime API over WebRTC: an audio track in, events over the data channel."""

from server.access import Caller
from server.apis.openai import messages
from server.apis.openai.messages import Configuration
from server.apis.openai.session import RealtimeSession
from server.apis.session_names import Owner
from server.errors import ServerError
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Settings
from server.telemetry.metrics import Api
from server.transports.webrtc.offers import OfferContents
from server.transports.webrtc.peer import Peer, WebRtcTransport


class Calls:
    """The calls of this process, by their names."""

    def __init__(self, webrtc: WebRtcTransport, sessions: Sessions, settings: Settings, owner: Owner):
        self.webrtc, self.sessions, self.owner = webrtc, sessions, owner
        self.model_id, self.limits = settings.model.model_id, settings.session
        self._peers: dict[str, CallPeer] = {}

    async def open(self, sdp: str, session: object | None, caller: Caller) -> tuple["CallPeer", str]:
        """Return the call and the answer. session: an object from the client. Raises BadOffer, Refused, or ClientError for it."""
        offered = OfferContents.read(sdp)
        offered.check_channel()
        offered.check_tracks(most_audio=1, least_audio=1)
        peer = CallPeer(self, Configuration.of(session, self.model_id), caller)
        return peer, await peer.answer(sdp)

    def find(self, name: str) -> "CallPeer | None":
        return self._peers.get(name)

    def keep(self, peer: "CallPeer") -> None:
        self._peers[peer.name] = peer

    def forget(self, peer: "CallPeer") -> None:
        self._peers.pop(peer.name, None)


class CallPeer(Peer):
    """One call."""

    api = Api.OPENAI_REALTIME
    waits_for_connection = True

    def __init__(self, calls: Calls, configuration: Configuration, caller: Caller):
        super().__init__(calls.webrtc, caller)
        self.name = f"rtc_{calls.owner.new_name()}"
        self._calls, self._configuration = calls, configuration

    def open_session(self) -> Seat:
        seat = self._calls.sessions.take_seat(self.api, self._caller, self.on_session_end, waits=True)
        idle_seconds = self._calls.limits.idle_timeout_seconds
        RealtimeSession(seat, idle_seconds, self._configuration, self._outbox.send, has_track=True)
        self._calls.keep(self)
        return seat

    def written(self, error: ServerError) -> str:
        return messages.error_event(error).encode()

    def receive(self, seat: Seat, message: str | bytes) -> None:
        seat.receive_text(message if isinstance(message, str) else message.decode(errors="replace"))

    def on_session_end(self) -> None:
        self._calls.forget(self)
        super().on_session_end()

    def hang_up(self) -> None:
        """Complete the text so far, and end the call."""
        if self._seat is not None:
            self._seat.finish()
