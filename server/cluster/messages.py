"""What crosses between gateway processes and the engine process: small messages, and audio once."""

from collections.abc import Sequence

import msgspec
import numpy as np

from runtime import exceptions
from runtime.audio import Clip
from runtime.exceptions import EngineError, EngineFailed
from runtime.scheduler.requests import Priority, Request, Result, Timings

SOCKET_VARIABLE = "ASR_ENGINE_SOCKET"
"""From the supervisor: where gateways and engine process meet; to a gateway, of every engine process, separated by spaces."""
PULSE_SECONDS = 0.25
"""Each side says so often that it is there,"""
LOST_SECONDS = 2.5
"""and is given up when nothing was heard for so long: an engine process loads a network meanwhile, which takes a second."""


class GatewayPulse(msgspec.Struct, frozen=True, tag=True):
    """A gateway is there."""

    sessions: int


class OpenStream(msgspec.Struct, frozen=True, tag=True):
    stream_id: str


class CloseStream(msgspec.Struct, frozen=True, tag=True):
    stream_id: str


class Transcribe(msgspec.Struct, frozen=True, tag=True):
    """A request, with the audio that the engine process does not have yet."""

    request_id: int
    stream_id: str
    start: int
    """Position of the open segment's first sample; what lies before it is needed no more."""
    end: int
    """Position behind the clip's last sample."""
    new_from: int
    """Position of the first new sample: where the audio sent before ended, or the start."""
    new_pcm: bytes
    stretches: tuple[tuple[int, int], ...] | None
    draft: tuple[int, ...]
    forced: int
    priority: int
    end_bias: float
    unheard_seconds: float | None
    recovers: bool
    align: bool


class EnginePulse(msgspec.Struct, frozen=True, tag=True):
    """The engine process is there and warm."""

    epoch: str
    """Of this one process: another one knows nothing of the streams before."""
    seconds_in_step: float
    max_samples: int
    sessions: int
    """Of all gateways, as they last said."""


class Answer(msgspec.Struct, frozen=True, tag=True):
    """The answer to one request."""

    request_id: int
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    looped: bool
    first_frames: tuple[int, ...] | None
    queue_ms: float
    total_ms: float
    passes: int
    single_steps: int
    error: tuple[str, str] | None
    """Name of the class, one of runtime.exceptions, and what it says."""


ToEngine = GatewayPulse | OpenStream | CloseStream | Transcribe
ToGateway = EnginePulse | Answer
encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_to_gateway = msgspec.msgpack.Decoder(ToGateway).decode


class SentAudio:
    """The gateway's side of one stream's audio: how much of it has been sent."""

    def __init__(self) -> None:
        self._until = 0

    def message_for(self, request: Request) -> Transcribe:
        """The request with the audio that is new."""
        clip = request.clip
        end = clip.position + len(clip.pcm)
        new_from = max(self._until, clip.position)
        self._until = max(self._until, end)
        return Transcribe(
            request.request_id, request.stream_id, clip.position, end, new_from,
            clip.pcm[new_from - clip.position :].tobytes(), clip.stretches, request.draft, request.forced, request.priority,
            request.end_bias, request.unheard_seconds, request.recovers, request.align,
        )  # fmt: skip


class HeldAudio:
    """The engine process's side: the open segment."""

    def __init__(self) -> None:
        self._start = 0
        self._pcm = bytearray()

    def clip_of(self, message: Transcribe) -> Clip:
        """Keep what is new and give what is to be heard. Raises ValueError where something between is missing."""
        self._drop_before(message.start)
        end = self._start + len(self._pcm) // 2
        if message.new_from != end:
            raise ValueError(f"audio up to {end} is here, and what comes begins at {message.new_from}")
        self._pcm += message.new_pcm
        pcm = np.frombuffer(bytes(self._pcm[: (message.end - self._start) * 2]), np.int16)
        return Clip(pcm, message.start, message.stretches)

    def _drop_before(self, start: int) -> None:
        held = len(self._pcm) // 2
        del self._pcm[: 2 * min(start - self._start, held)]
        self._start = start


def request_of(message: Transcribe, request_id: int, stream_id: str, clip: Clip) -> Request:
    return Request(request_id, stream_id, clip, message.draft, message.forced, Priority(message.priority), message.end_bias,
                   message.unheard_seconds, message.recovers, message.align)  # fmt: skip


def answer_of(result: Result, request_id: int) -> Answer:
    timings = result.timings
    error = result.error and (type(result.error).__name__, str(result.error))
    return Answer(request_id, result.tokens, result.log_probs, result.looped, result.first_frames, timings.queue_ms,
                  timings.total_ms, timings.passes, timings.single_steps, error)  # fmt: skip


def result_of(answer: Answer, request: Request) -> Result:
    timings = Timings(answer.queue_ms, answer.total_ms, answer.passes, answer.single_steps)
    return Result(request, answer.tokens, answer.log_probs, error_of(answer.error), answer.looped, answer.first_frames, timings)


def error_of(error: Sequence[str] | None) -> EngineError | None:
    if error is None:
        return None
    name, message = error
    kind = getattr(exceptions, name, EngineFailed)
    return kind(message)
