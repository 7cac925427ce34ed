"""The server's own protocol over WebRTC: messages and audio over a data channel, or audio in a separate track."""

from server.access import Caller
from server.apis.native import messages
from server.apis.native.session import NativeSession
from server.errors import ClientError, Code, ServerError
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import SessionLimits
from server.telemetry.metrics import Api
from server.transports.webrtc.offers import OfferContents
from server.transports.webrtc.peer import Peer, WebRtcTransport

TWO_SOURCES = ClientError(Code.BAD_AUDIO, "audio comes by the track of this connection, not over the data channel")


class NativePeer(Peer):
    """One connection."""

    api = Api.WEBRTC

    def __init__(
        self,
        transport: WebRtcTransport,
        caller: Caller,
        sessions: Sessions,
        limits: SessionLimits,
        server: messages.Server,
        has_track: bool,
    ):
        super().__init__(transport, caller)
        self._sessions, self._limits, self._server, self._has_track = sessions, limits, server, has_track

    def open_session(self) -> Seat:
        seat = self._sessions.take_seat(self.api, self._caller, self.on_session_end, waits=True)
        NativeSession(seat, self._limits, self._server, self._outbox.send, self._has_track)
        return seat

    def written(self, error: ServerError) -> str:
        return messages.error(error).encode()

    def receive(self, seat: Seat, message: str | bytes) -> None:
        if self._has_track and isinstance(message, bytes):
            seat.fail(TWO_SOURCES)
        else:
            super().receive(seat, message)


def has_track(sdp: str) -> bool:
    """Return whether an offer has an audio track. Raises BadOffer if it cannot be answered."""
    offered = OfferContents.read(sdp)
    offered.check_channel()
    offered.check_tracks(most_audio=1)
    return offered.audio > 0
