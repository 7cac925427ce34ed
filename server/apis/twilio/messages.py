"""Messages of Twilio Media Streams. Twilio only sends them and reads none. No I/O, no clock.

https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from server.audio.input import AudioFormat, SampleEncoding
from server.errors import ClientError, Code

TRACKS = ("inbound", "outbound")
ENCODINGS = {"audio/x-mulaw": SampleEncoding.MULAW, "audio/x-alaw": SampleEncoding.ALAW}
MOST_MS = 7 * 24 * 3600 * 1000  # largest timestamp
CHANNEL_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}")
CHANNEL, KEY = "channel", "api_key"
"""Names of the custom parameters that are read here."""
UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeEncodeError)

Part = TypeVar("Part", bound=Struct)


class Envelope(Struct, frozen=True, rename="camel"):
    """A message, whose parts are parsed when they are needed."""

    event: str
    stream_sid: str = ""
    start: msgspec.Raw = msgspec.Raw(b"")
    media: msgspec.Raw = msgspec.Raw(b"")


class MediaFormat(Struct, frozen=True, rename="camel"):
    """Format of each track."""

    encoding: str = "audio/x-mulaw"
    sample_rate: int = 8000
    channels: int = 1


class CallStart(Struct, frozen=True, rename="camel"):
    """The first message about a call."""

    stream_sid: str = ""
    call_sid: str = ""
    tracks: Annotated[list[str], Meta(max_length=8)] = []  # noqa: RUF012 - msgspec copies it
    media_format: MediaFormat = MediaFormat()
    custom_parameters: Annotated[dict[str, str], Meta(max_length=64)] = {}  # noqa: RUF012 - msgspec copies it

    @property
    def known_tracks(self) -> tuple[str, ...]:
        """Raises ClientError."""
        asked = set(self.tracks or TRACKS[:1])
        if unknown := asked.difference(TRACKS):
            raise ClientError(Code.UNSUPPORTED_VALUE, f"unknown track {min(unknown)[:40]!r}", "start.tracks")
        return tuple(track for track in TRACKS if track in asked)

    @property
    def audio_format(self) -> AudioFormat:
        """Raises ClientError."""
        wanted = self.media_format
        if wanted.encoding not in ENCODINGS or wanted.channels != 1:
            message = f"the encoding must be one of {', '.join(ENCODINGS)}, with one channel for each track"
            raise ClientError(Code.UNSUPPORTED_VALUE, message, "start.mediaFormat")
        try:
            return AudioFormat(ENCODINGS[wanted.encoding], wanted.sample_rate)
        except ValueError as exc:
            raise ClientError(Code.INVALID_VALUE, str(exc), "start.mediaFormat.sampleRate") from exc

    def channel_name(self, path_name: str) -> str:
        """Return the name under which the words are read. path_name: name in the address; may be empty. Raises ClientError."""
        name = path_name or self.custom_parameters.get(CHANNEL) or self.call_sid or self.stream_sid
        if not CHANNEL_NAME.fullmatch(name):
            message = "the name of a channel has 1 to 128 letters, digits, dots, dashes, underscores and tildes"
            raise ClientError(Code.INVALID_VALUE, message, CHANNEL)
        return name


class Media(Struct, frozen=True):
    """Audio of one track."""

    payload: bytes
    """base64 in the message."""
    track: str = TRACKS[0]
    timestamp: Annotated[int, Meta(ge=0, le=MOST_MS)] | None = None
    """Milliseconds from the start of the stream to this audio."""


message_decoder = msgspec.json.Decoder(Envelope)


def parse(text: str) -> Envelope:
    """Raises ClientError."""
    try:
        return message_decoder.decode(text)
    except UNREADABLE as exc:
        raise ClientError(Code.BAD_MESSAGE, f"a message must be a JSON object with an event: {exc}") from exc


def parse_part(part: msgspec.Raw, kind: type[Part], name: str) -> Part:
    """Parse a part of a message; numbers may be texts, as Twilio sends them. Raises ClientError."""
    try:
        return msgspec.json.decode(part, type=kind, strict=False)
    except UNREADABLE as exc:
        raise ClientError(Code.INVALID_VALUE, f"{name}: {exc}", name) from exc
