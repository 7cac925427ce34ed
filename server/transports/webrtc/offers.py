"""The contents of an SDP offer, and whether it can be answered."""

from dataclasses import dataclass

from aiortc.sdp import MediaDescription, SessionDescription

from server.errors import ClientError, Code
from server.transports.webrtc import ice

MAX_SECTIONS = 16  # aiortc takes a millisecond of the event loop's time for each
MAX_CANDIDATES = 40  # each of them gets some forty packets


class BadOffer(ClientError):
    """The offer cannot be answered. The message describes the error in it."""

    def __init__(self, message: str):
        super().__init__(Code.BAD_OFFER, message)


@dataclass(frozen=True)
class OfferContents:
    """Number of sections of an offer, by kind."""

    audio: int
    video: int
    channels: int

    @classmethod
    def read(cls, sdp: str) -> "OfferContents":
        """Count the sections of an offer. Raises BadOffer."""
        try:
            description = SessionDescription.parse(sdp)
        except Exception as exc:  # aiortc's parser raises many kinds of errors
            raise BadOffer("sdp is not a session description") from exc
        if not description.media:
            raise BadOffer("sdp is not a session description: it has no media section")
        if len(description.media) > MAX_SECTIONS:
            raise BadOffer(f"the offer has more than {MAX_SECTIONS} media sections")
        if ice.count_candidates(sdp) > MAX_CANDIDATES:
            raise BadOffer(f"the offer has more than {MAX_CANDIDATES} candidates")
        if any(media.port and not (media.dtls and media.dtls.fingerprints) for media in description.media):
            raise BadOffer("the offer has no fingerprint: nothing could be encrypted")
        kinds = [media.kind for media in description.media if media.port or is_bundled(media)]
        return cls(kinds.count("audio"), kinds.count("video"), kinds.count("application"))

    def check_channel(self) -> None:
        """Raises BadOffer if there is no data channel."""
        if not self.channels:
            raise BadOffer("the offer has no data channel; words come over one")

    def check_tracks(self, most_audio: int, least_audio: int = 0, video: bool = False) -> None:
        """Raises BadOffer for too many or too few audio tracks, or for video, unless `video` is true. Video is not used."""
        if self.video and not video:
            raise BadOffer("the offer has video; only audio is taken")
        if not least_audio <= self.audio <= most_audio:
            wanted = "one audio track" if least_audio else "one audio track at most"
            raise BadOffer(f"the offer has {self.audio} audio tracks; {wanted} is taken")


def is_bundled(media: MediaDescription) -> bool:
    """Return whether a section with port 0 is bundled: if it has an ICE user, it uses another section's transport (RFC 9143).

    Without one, port 0 means that the section is not wanted (RFC 3264, 6).
    """
    return media.ice is not None and media.ice.usernameFragment is not None
