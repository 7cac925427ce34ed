"""Steps of the engine, and the requests in them."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine.protocol import CONTINUED, Cores, Limits, Row
from runtime.exceptions import EngineError
from runtime.scheduler.decoding import Decoding
from runtime.scheduler.requests import Priority, Request, Result, Timings
from runtime.scheduler.slots import Slots

PIECE_SAMPLES = 4 * SAMPLE_RATE  # of a recording, per step of an engine that continues clips: limits the wait of live speech


@dataclass
class Job:
    """A request in progress: waiting while it has no slot, in flight while it has one."""

    request: Request
    submitted_at: float
    slot: int | None = None
    started_at: float = 0.0
    decoding: Decoding | None = None
    unanswered: int = 0
    """Number of blocks fed whose predictions are not back yet; two at most, and then the second is one token."""
    is_aligning: bool = False
    group: "Group | None" = None
    """Group of rows that the slot belongs to."""
    continues: bool = False
    """True if its slot may hold the beginning of its clip."""
    encoded_samples: int = 0
    """Samples of its clip that are encoded, or will be by the planned step."""

    @property
    def is_encoded(self) -> bool:
        return self.encoded_samples == self.request.clip.sample_count

    def next_clip(self, in_pieces: bool) -> Clip:
        """Return its clip. in_pieces: return its beginning first, then more of it with each call."""
        clip = self.request.clip
        most = self.encoded_samples + PIECE_SAMPLES if in_pieces else clip.sample_count
        self.encoded_samples = min(most, clip.sample_count)
        return clip if self.is_encoded else clip.beginning(self.encoded_samples)


@dataclass(frozen=True)
class Encode:
    """Encode the audio of these requests into their slots."""

    jobs: tuple[Job, ...]
    clips: tuple[Clip, ...]
    """Audio for each slot: the request's clip, or its beginning."""
    cores: Cores = Cores.ALL
    """Threads for an engine with lanes."""


@dataclass(frozen=True)
class Decode:
    """One block of tokens for every row in flight in a group."""

    jobs: tuple[Job, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Align:
    """Find the frames of the tokens of these jobs' results."""

    jobs: tuple[Job, ...]


Step = Encode | Decode | Align


class Group:
    """Slots whose rows are decoded together, in parallel with those of other groups."""

    def __init__(self, first_slot: int, count: int):
        self.slots = Slots(first_slot, count)
        self.in_flight: dict[int, Job] = {}  # being decoded, by request id
        self.to_encode: dict[int, Job] = {}  # recordings with only the beginning of the clip encoded
        self.to_align: dict[int, Job] = {}  # decoded, but not aligned yet; they keep their slots
        self.encodes_in_a_row = 0

    def jobs(self) -> Iterator[Job]:
        return itertools.chain(self.in_flight.values(), self.to_encode.values(), self.to_align.values())

    @property
    def taken(self) -> int:
        """Number of slots with a request."""
        return len(self.in_flight) + len(self.to_encode) + len(self.to_align)


def plan_align(jobs: Sequence[Job]) -> Align:
    for job in jobs:
        job.is_aligning = True
    return Align(tuple(jobs))


def decoding_of(request: Request, limits: Limits) -> Decoding:
    most = min(request.most_tokens(limits.token_scale), limits.max_positions - 1)
    return Decoding(request.draft, request.forced, most, limits.start_token, limits.end_token, request.keyterms)


def is_live(job: Job) -> bool:
    return job.request.priority is not Priority.FILE


def can_be_fed(job: Job) -> bool:
    return job.unanswered == 0 or (job.unanswered == 1 and job.decoding.may_continue_unseen)


def row_of(job: Job) -> Row:
    decoding = job.decoding
    if job.unanswered:
        return Row(job.slot, (CONTINUED,), decoding.past_length + 1, job.request.end_bias)
    return Row(job.slot, decoding.next_tokens(), decoding.past_length, job.request.end_bias, decoding.next_biases())


def result_of(job: Job, now: float, error: EngineError | None = None) -> Result:
    decoding = job.decoding
    if decoding is None or error is not None:
        return Result(job.request, error=error)
    timings = Timings(
        queue_ms=(job.started_at - job.submitted_at) * 1000,
        total_ms=(now - job.submitted_at) * 1000,
        passes=decoding.passes,
        single_steps=decoding.single_steps,
    )
    return Result(
        job.request,
        tuple(decoding.tokens),
        tuple(decoding.log_probs),
        cut_short=decoding.cut_short,
        timings=timings,
        end_log_prob=decoding.end_log_prob,
    )
