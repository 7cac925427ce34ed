"""OpenAI's Realtime API over WebRTC: an audio track in, events over the data channel."""

from server.access import Caller
from server.apis.openai.session import RealtimeSession
from server.apis.session_names import Owner
from server.telemetry.metrics import Api
from server.transports.webrtc.offers import Offered
from server.transports.webrtc.peer import Peer, WebRtcTransport


class CallTransport:
    """The calls of this process, by their names."""

    def __init__(self, webrtc: WebRtcTransport, owner: Owner):
        self._webrtc = webrtc
        self.owner = owner
        self._peers: dict[str, CallPeer] = {}

    async def open(self, sdp: str, configuration: object | None, caller: Caller) -> tuple["CallPeer", str]:
        """The call and the answer. Raises BadOffer, Refused, or ClientError for the configuration."""
        offered = Offered.read(sdp)
        offered.check_channel()
        offered.check_tracks(most_audio=1, least_audio=1)
        peer = CallPeer(self._webrtc, self, configuration, caller)
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

    def __init__(self, webrtc: WebRtcTransport, calls: CallTransport, configuration: object | None, caller: Caller):
        super().__init__(webrtc, caller)
        self.name = f"rtc_{calls.owner.new_name()}"
        self._calls = calls
        self._configuration = configuration
        self._realtime: RealtimeSession | None = None

    @property
    def _session(self) -> RealtimeSession | None:
        return self._realtime

    def _open_session(self) -> None:
        self._realtime = self._sessions.open_realtime(
            self._outbox.send, self._on_session_end, self._configuration, has_track=True, caller=self._caller
        )
        self._calls.keep(self)

    def _on_message(self, message: str | bytes) -> None:
        if self._realtime is not None:
            self._sessions.text(self._realtime, message if isinstance(message, str) else message.decode(errors="replace"))

    def _on_session_end(self) -> None:
        self._calls.forget(self)
        super()._on_session_end()

    def hang_up(self) -> None:
        """What was said so far is completed."""
        if self._realtime is not None:
            self._sessions.finish(self._realtime)
