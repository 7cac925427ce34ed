"""Messages between gateway processes and the engine process; audio is sent only once."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from runtime import exceptions
from runtime.audio import Clip
from runtime.audio_buffer import AudioBuffer
from runtime.exceptions import EngineError, EngineFailed
from runtime.scheduler.keyterms import Keyterms
from runtime.scheduler.requests import Priority, Request, Result, Timings

SOCKET_VARIABLE = "ASR_ENGINE_SOCKET"
"""Set by the supervisor: the engine process's socket; for a gateway those of all engine processes, separated by spaces."""
PULSE_SECONDS = 0.25
"""Seconds between two pulses of each side."""
PARTS_AT_ONCE = 16
"""Most requests or answers in one list between processes. Sent one by one they cost several times as much, and longer lists
would block the other side's event loop too long."""
LOST_SECONDS = 2.5
"""Seconds without a pulse after which the other side is given up: an engine process may load a network for a second."""


def pulse_address(address: str) -> str:
    """Return the address of the pulse of the engine process at `address`."""
    return f"{address}-pulse"


class GatewayPulse(msgspec.Struct, frozen=True, tag=True):
    """The pulse of a gateway."""

    sessions: int
    """Sessions that have a place at this gateway, on any engine process."""


class StreamOpened(msgspec.Struct, frozen=True, tag=True):
    stream_id: str


class StreamClosed(msgspec.Struct, frozen=True, tag=True):
    stream_id: str


class RequestFields(msgspec.Struct, frozen=True, kw_only=True):
    """A Request without its audio and keyterms.

    Its fields are copied by name: a field that only one of the two classes has raises an error at the first request.
    """

    request_id: int
    stream_id: str
    draft: tuple[int, ...]
    forced: int
    priority: Priority
    end_bias: float
    uncovered_seconds: float | None
    is_retry: bool
    align: bool


class Audio(msgspec.Struct, frozen=True, kw_only=True):
    """A request's clip, without the audio that the engine process already has."""

    start: int
    """Position of the open segment's first sample; earlier audio is no longer needed."""
    end: int
    """Position after the clip's last sample."""
    new_from: int
    """Position of the first new sample: the end of the audio sent before, or the start."""
    new_pcm: bytes
    ranges: tuple[tuple[int, int], ...] | None
    offset: int
    gain: float
    gains: tuple[float, ...] | None
    quiet_before: int
    quiet_behind: int


class Transcribe(msgspec.Struct, frozen=True, tag=True):
    """A request, with the audio that the engine process does not have yet."""

    asked: RequestFields
    audio: Audio
    keyterms: Keyterms | None
    """Keyterms of this request and all that follow; None: they are those of the request before."""


class EnginePulse(msgspec.Struct, frozen=True, tag=True):
    """The pulse of the engine process; `status` shows whether the process is warm."""

    epoch: str
    """Name of this one process: a new process does not know the streams of an earlier one."""
    status: str
    """A runtime.scheduler.transcriber.Status."""
    max_samples: int
    encodes_streams: bool
    """See Transcriber.encodes_streams."""
    sessions: int
    """Sessions of all gateways, as they last reported."""
    streams: int
    """Streams on this engine process."""


class ResultFields(msgspec.Struct, frozen=True, kw_only=True):
    """A Result without its request."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    end_log_prob: float | None
    cut_short: bool
    first_frames: tuple[int, ...] | None
    frame_samples: int
    timings: Timings
    error: tuple[str, str] | None
    """Name of the exception's class in runtime.exceptions, and its message."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one request."""

    request_id: int
    result: ResultFields


ToEngine = GatewayPulse | StreamOpened | StreamClosed | Transcribe
REQUEST_FIELDS = [field.name for field in dataclasses.fields(Request) if field.name not in ("clip", "keyterms")]
NO_KEYTERMS = Keyterms(())
SHARED_KEYTERMS = 1024  # different keyterms of streams that an engine process keeps
CLIP_FIELDS = [field.name for field in dataclasses.fields(Clip) if field.name not in ("pcm", "position")]
RESULT_FIELDS = [field.name for field in dataclasses.fields(Result) if field.name != "request"]

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(list[ToEngine]).decode
decode_pulse = msgspec.msgpack.Decoder(EnginePulse).decode
decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode


class SentParts:
    """The gateway's side of one stream: the audio and the keyterms that have been sent."""

    def __init__(self) -> None:
        self._until = 0
        self._keyterms = NO_KEYTERMS

    def message_for(self, request: Request) -> Transcribe:
        """Return the request with only the new audio and keyterms."""
        clip = request.clip
        end = clip.position + len(clip.pcm)
        new_from = max(self._until, clip.position)
        self._until = max(self._until, end)
        new_pcm = clip.pcm[new_from - clip.position :].tobytes()
        of_clip = fields_of(clip, CLIP_FIELDS)
        audio = Audio(start=clip.position, end=end, new_from=new_from, new_pcm=new_pcm, **of_clip)
        keyterms = request.keyterms or NO_KEYTERMS
        changed = keyterms if keyterms is not self._keyterms else None
        self._keyterms = keyterms
        return Transcribe(RequestFields(**fields_of(request, REQUEST_FIELDS)), audio, changed)


class ReceivedParts:
    """The engine process's side: keyterms, and the audio of the open segment."""

    def __init__(self) -> None:
        self._start = 0
        self._pcm = AudioBuffer()
        self.keyterms: Keyterms | None = None
        """Keyterms of the newest request."""

    def take_keyterms(self, keyterms: Keyterms | None) -> Keyterms | None:
        """Keep the keyterms of a message, if it has some, and return those of its request."""
        if keyterms is not None:
            self.keyterms = shared(keyterms) if keyterms.spellings else None
        return self.keyterms

    def clip_of(self, audio: Audio) -> Clip:
        """Keep the new audio and return the request's clip. Raises ValueError if audio before the new part is missing."""
        self._pcm.drop(min(audio.start - self._start, len(self._pcm)))
        self._start = audio.start
        end = self._start + len(self._pcm)
        if audio.new_from != end:
            raise ValueError(f"audio up to {end} is here, and what comes begins at {audio.new_from}")
        self._pcm.append(audio.new_pcm)
        pcm = self._pcm.read(0, audio.end - self._start)
        return Clip(pcm, audio.start, **{name: getattr(audio, name) for name in CLIP_FIELDS})


@functools.lru_cache(SHARED_KEYTERMS)
def shared(keyterms: Keyterms) -> Keyterms:
    """Return the same object for equal keyterms of all streams: engines take each list of biases once in a pass."""
    return keyterms


def fields_of(value: Request | Result | Clip, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of these names, not converted."""
    return {name: getattr(value, name) for name in names}


def request_of(asked: RequestFields, clip: Clip, request_id: int, stream_id: str, keyterms: Keyterms | None = None) -> Request:
    """Make the request of this process. request_id, stream_id: unique in this process."""
    here = {"clip": clip, "request_id": request_id, "stream_id": stream_id, "keyterms": keyterms}
    return Request(**msgspec.structs.asdict(asked) | here)


def answer_of(result: Result, request_id: int) -> Answer:
    error = result.error and (type(result.error).__name__, str(result.error))
    return Answer(request_id, ResultFields(**fields_of(result, RESULT_FIELDS) | {"error": error}))


def result_of(answer: Answer, request: Request) -> Result:
    return Result(request, **msgspec.structs.asdict(answer.result) | {"error": error_of(answer.result.error)})


def error_of(error: Sequence[str] | None) -> EngineError | None:
    if error is None:
        return None
    name, message = error
    kind = getattr(exceptions, name, EngineFailed)
    return kind(message)
