"""A call of Twilio: each track is a channel of its own. Reads no clock and waits for nothing."""

from collections.abc import Callable

from server.apis.broadcast.session import BroadcastSession
from server.apis.twilio import messages
from server.apis.twilio.messages import CallStart, Envelope, Media
from server.audio.input import AudioFormat, AudioInput, SampleEncoding
from server.errors import ClientError, Code, ServerError
from server.sessions.session import POLICY_VIOLATION, SeatInterface, close_reason_of
from server.settings import SessionLimits

START_SECONDS = 10.0  # time limit for the first message about the call, which has the key
LEAST_GAP_MS = 100  # below it, the difference between timestamps and audio may be rounding
MOST_GAP_MS = 5_000  # most that is filled at once; the next messages fill the rest of a longer gap
SILENT_BYTES = {SampleEncoding.MULAW: b"\xff", SampleEncoding.ALAW: b"\xd5"}

Identify = Callable[[str], None]
Publish = Callable[[str], None]


class Track:
    """One track's audio, and how much of it has come."""

    def __init__(self, audio_format: AudioFormat):
        self._format, self._input = audio_format, AudioInput(audio_format)
        self._received_bytes = 0

    def take(self, media: Media) -> bytes:
        """Return PCM16 at 16 kHz. Audio that is missing, according to the timestamps, is filled with silence."""
        audio = self._silence_before(media.timestamp) + media.payload
        self._received_bytes += len(audio)
        return self._input.take(audio)[0]

    def _silence_before(self, timestamp_ms: int | None) -> bytes:
        gap_ms = (timestamp_ms or 0) - self._received_bytes * 1000 // self._format.rate
        filled_ms = min(gap_ms, MOST_GAP_MS) if gap_ms >= LEAST_GAP_MS else 0
        return SILENT_BYTES[self._format.encoding] * (filled_ms * self._format.rate // 1000)

    def finish(self) -> bytes:
        return self._input.finish()[0]


class TwilioSession(BroadcastSession):
    """Takes a place for each track with its first audio."""

    def __init__(self, seat: SeatInterface, limits: SessionLimits, channel: str, identify: Identify, publish: Publish):
        """Make a session.

        channel: name in the address; may be empty. identify: checks the key of the start message; raises ServerError.
        publish: makes the words readable under a name.
        """
        super().__init__(seat, limits.idle_timeout_seconds)
        self._channel, self._identify, self._publish = channel, identify, publish
        self._stream_sid = ""
        self._tracks: dict[str, Track] = {}

    def read_text(self, text: str, now: float) -> None:
        message = messages.parse(text)
        match message.event:
            case "start":
                self._start(message)
            case "media":
                self._take_media(message, now)
            case "stop":
                self._check_started(message)
                self.finish(now)
            case _:
                pass  # connected, dtmf, mark, and future messages of Twilio

    def _start(self, message: Envelope) -> None:
        if self._tracks:
            raise ClientError(Code.ALREADY_INITIALISED, "start was sent twice")
        start = messages.parse_part(message.start, CallStart, "start")
        self._identify(start.custom_parameters.get(messages.KEY, ""))
        tracks, audio_format = start.known_tracks, start.audio_format
        name = start.channel_name(self._channel)
        self._stream_sid = start.stream_sid or message.stream_sid
        self.split(len(tracks))
        self._tracks = {track: Track(audio_format) for track in tracks}
        self._publish(name)

    def _check_started(self, message: Envelope) -> None:
        """Raises ClientError."""
        if not self._tracks:
            raise ClientError(Code.NOT_INITIALISED, f"{message.event} came before start")
        if message.stream_sid != self._stream_sid:
            raise ClientError(Code.INVALID_VALUE, "streamSid is not the one of start", "streamSid")

    def _take_media(self, message: Envelope, now: float) -> None:
        self._check_started(message)
        media = messages.parse_part(message.media, Media, "media")
        if media.track not in self._tracks:
            raise ClientError(Code.INVALID_VALUE, "the track is none of start's", "media.track")
        if self.is_finishing:
            return
        self._last_received_at = now
        if not self._streams:
            self._begin(now)
        self._receive_track(media.track, self._tracks[media.track].take(media), now)

    def _receive_track(self, track: str, pcm: bytes, now: float) -> None:
        self.seat.count_audio(pcm)
        self._streams[list(self._tracks).index(track)].receive(pcm, now)

    def read_audio(self, audio: bytes, now: float) -> None:
        raise ClientError(Code.BAD_MESSAGE, "messages are JSON; audio is base64 in them")

    def on_time(self, now: float) -> None:
        super().on_time(now)
        if not self._tracks and now - self.seat.opened_at > START_SECONDS:
            self.fail(ServerError(Code.INIT_TIMEOUT, f"start did not come within {START_SECONDS:g} s"))

    def leave(self, now: float) -> None:
        """Finish, so that the readers get the text up to its end."""
        self.finish(now)

    def finish(self, now: float, is_cut: bool = False) -> None:
        if self._streams and not self.is_finishing:
            for name, track in self._tracks.items():
                self._receive_track(name, track.finish(), now)
        super().finish(now, is_cut)

    def fail(self, error: ServerError) -> None:
        """End the session with the reason in the close frame: Twilio reads no messages."""
        self.close_code = POLICY_VIOLATION
        self.close_reason = close_reason_of(error)
        super().fail(error)
