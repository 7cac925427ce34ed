"""The batcher decides which requests run next. It does no I/O, reads no clock and touches no engine.

The loop (loop.py) calls plan(), runs the step, and reports with encoded(), decoded(), aligned() or fail(). These return the
results of finished requests, one for every submitted request. plan() may be called again before a Decode is answered: it then
plans only steps that do not depend on the answer, so that the device need not wait for the host.
"""

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from runtime.engine.protocol import Cores, Limits, Prediction
from runtime.exceptions import EngineError, EngineFailed, RequestCancelled
from runtime.scheduler.recording_policy import RecordingPolicy
from runtime.scheduler.requests import Priority, Request, Result
from runtime.scheduler.steps import (
    Align,
    Decode,
    Encode,
    Group,
    Job,
    Step,
    can_be_fed,
    decoding_of,
    is_live,
    plan_align,
    result_of,
    row_of,
)

ENCODE_BURST = 4  # encodes in a row, without lanes, before the rows in flight get a pass: four share a pass at half the cost


class Batcher:
    """Batches requests in flight: they join at any step, finished ones leave, and none waits for the longest.

    Finals go before interims, in both queues. While the engine is idle, an interim waits up to `max_wait_seconds` for other
    requests, but only while another stream could still send one.
    """

    def __init__(self, limits: Limits, max_wait_seconds: float):
        self._limits = limits
        self._max_wait_seconds = max_wait_seconds
        self._recordings = RecordingPolicy(limits)
        size, left_over = divmod(limits.max_batch, limits.slot_groups)
        assert size and not left_over, f"{limits.max_batch} slots are not {limits.slot_groups} groups of one size"
        assert limits.slot_groups == 1 or not limits.continues_clips, (
            "a stream comes back to its slot, whose group may have no turn"
        )
        self._groups = deque(Group(number * size, size) for number in range(limits.slot_groups))  # the next in turn first
        self._waiting: dict[Priority, dict[int, Job]] = {priority: {} for priority in Priority}  # in order of submission
        self._encoding: dict[int, Job] = {}  # on a lane of their own, by request id
        self._lanes_taken = 0  # also by clips whose request was withdrawn: they are encoded all the same
        self._lanes_taken_by_files = 0  # the recordings' part of these
        self._streams: set[str] = set()
        self._of_stream: dict[str, dict[int, Job]] = {}  # all jobs of each stream, by request id
        self._poisoned: list[int] = []

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def in_flight(self) -> int:
        return len(self._encoding) + sum(group.taken for group in self._groups)

    def take_freed(self) -> list[int]:
        """Return the slots freed since the last call."""
        return [slot for group in self._groups for slot in group.slots.take_freed()]

    def take_resting(self) -> list[int]:
        """Return the slots that are kept for their streams since the last call."""
        return [slot for group in self._groups for slot in group.slots.take_resting()]

    def take_poisoned(self) -> list[int]:
        """Return the slots that predicted a NaN or infinity since the last call, to be cleared; their requests have failed."""
        poisoned, self._poisoned = self._poisoned, []
        return poisoned

    def open_stream(self, stream_id: str) -> None:
        """Let this stream submit requests; other streams' requests may then wait for them, to share a batch."""
        self._streams.add(stream_id)

    def close_stream(self, stream_id: str) -> list[Result]:
        """Forget the stream; its requests are answered with RequestCancelled."""
        self._streams.discard(stream_id)
        for group in self._groups:
            group.slots.forget(stream_id)
        return self._withdraw(self._jobs_of(stream_id), "the stream has left")

    def submit(self, request: Request, now: float) -> list[Result]:
        """Queue a request. It withdraws those of its stream that go after it: their results would hold less, and come later."""
        later = [job for job in self._jobs_of(request.stream_id) if job.request.priority > request.priority]
        withdrawn = self._withdraw(later, "a request that goes first took its place")
        job = Job(request, submitted_at=now)
        self._waiting[request.priority][request.request_id] = job
        self._of_stream.setdefault(request.stream_id, {})[request.request_id] = job
        return withdrawn

    def _jobs_of(self, stream_id: str) -> list[Job]:
        return list(self._of_stream.get(stream_id, {}).values())

    def plan(self, now: float) -> Step | None:
        """Return the next step; None if there is nothing, or nothing worth starting before seconds_to_deadline()."""
        is_idle = not self.in_flight and not self._lanes_taken
        may_wait = is_idle and self.waiting > 0 and not self._company_is_complete(now)
        for _ in range(len(self._groups)):
            group = self._groups[0]
            self._groups.rotate(-1)
            step = self._plan_for(group, now, may_begin=not may_wait and self._may_begin(group))
            if step is not None:
                return step
        return None

    def _plan_for(self, group: Group, now: float, may_begin: bool) -> Step | None:
        if to_align := [job for job in group.to_align.values() if not job.is_aligning]:
            return plan_align(to_align[: self._limits.encode_rows])
        if self._limits.encode_lanes:
            return self._plan_encode(group, now) if may_begin and self._has_free_lane else self._plan_decode(group)
        final_in_flight = any(job.request.priority is Priority.FINAL for job in group.in_flight.values())
        burst_is_over = bool(self._going_on(group)) and group.encodes_in_a_row >= ENCODE_BURST
        if self._may_go_on_encoding(group) and not (self._live_waiting or final_in_flight or burst_is_over):
            return self._encode(group, tuple(itertools.islice(group.to_encode.values(), self._limits.encode_rows)))
        if may_begin and (self._waiting[Priority.FINAL] or not (final_in_flight or burst_is_over)):
            return self._plan_encode(group, now)
        return self._plan_decode(group)

    def _may_go_on_encoding(self, group: Group) -> bool:
        return bool(group.to_encode) and not self._files_rest

    @property
    def _free_slots(self) -> int:
        return sum(map(self._slots_left, self._groups))

    def _may_begin(self, group: Group) -> bool:
        """True if a waiting request can have a slot."""
        if not self._slots_left(group):
            return False
        return bool(self._live_waiting or (self._waiting[Priority.FILE] and self._slots_for_files))

    def _slots_left(self, group: Group) -> int:
        """Return the number of slots left for more requests."""
        if not self._limits.max_rows:
            return group.slots.available
        return min(group.slots.available, self._limits.max_rows - group.taken)

    @property
    def _live_waiting(self) -> int:
        return len(self._waiting[Priority.FINAL]) + len(self._waiting[Priority.INTERIM])

    @property
    def _slots_for_files(self) -> int:
        return self._recordings.slots(self._free_slots, self._files_rest)

    @property
    def _files_rest(self) -> bool:
        return self._recordings.rest(self._live_waiting, self._free_slots, any(map(is_live, self._with_slots())))

    @property
    def _has_free_lane(self) -> bool:
        """True if a lane may encode. Some cores are reserved for decoding while it runs: sharing them would delay finals, too."""
        limits = self._limits
        taken = self._lanes_taken - (self._lanes_taken_by_files if self._files_rest else 0)
        return taken < (limits.lanes_beside_decode if any(map(self._going_on, self._groups)) else limits.encode_lanes)

    def _going_on(self, group: Group) -> tuple[Job, ...]:
        """Return the rows in flight that take part in the next pass."""
        jobs = group.in_flight.values()
        if self._files_rest:
            return tuple(filter(is_live, jobs))
        more_wait = bool(self._waiting[Priority.FILE] and self._slots_for_files)
        gather = self._recordings.gather(len(group.in_flight), self._lanes_taken, more_wait)
        return () if gather else tuple(jobs)

    def _plan_decode(self, group: Group) -> Decode | None:
        """Decode all rows together, or none: it is worth waiting for a row that needs its answer first."""
        jobs = self._going_on(group)
        if not jobs or not all(map(can_be_fed, jobs)):
            return None
        rows = tuple(map(row_of, jobs))
        group.encodes_in_a_row = 0
        for job in jobs:
            job.unanswered += 1
        return Decode(jobs, rows)

    def seconds_to_deadline(self, now: float) -> float | None:
        """Return the seconds until plan() must be called if nothing new arrives; None means no deadline."""
        may_encode = self._lanes_taken and self._has_free_lane and any(map(self._may_begin, self._groups))
        if may_encode or any(map(self._has_more, self._groups)):
            return 0.0
        if not self.waiting or self._lanes_taken:
            return None
        return max(0.0, self._longest_waiting().submitted_at + self._max_wait_seconds - now)

    def _has_more(self, group: Group) -> bool:
        return bool(group.to_align or self._may_go_on_encoding(group) or self._going_on(group))

    def _longest_waiting(self) -> Job:
        return min((next(iter(jobs.values())) for jobs in self._waiting.values() if jobs), key=lambda job: job.submitted_at)

    def _company_is_complete(self, now: float) -> bool:
        """True if an idle engine should start a step now."""
        if self._waiting[Priority.FINAL] or self.waiting >= self._free_slots:
            return True
        if self.waiting >= len(self._streams):
            return True  # a stream has one interim at most, so no other request can come
        return now - self._longest_waiting().submitted_at >= self._max_wait_seconds

    def _plan_encode(self, group: Group, now: float) -> Encode:
        count = 1 if self._limits.encode_lanes else min(self._limits.encode_rows, self._slots_left(group))
        queues = {priority: list(itertools.islice(jobs.values(), count)) for priority, jobs in self._waiting.items()}
        del queues[Priority.FILE][self._slots_for_files :]
        jobs = tuple(itertools.islice(itertools.chain(*queues.values()), count))
        cores = self._cores_for(jobs[0])
        for job in sorted(jobs, key=lambda job: not group.slots.keeps(job.request.stream_id)):  # before another takes its slot
            request = job.request
            del self._waiting[request.priority][request.request_id]
            job.continues = group.slots.keeps(request.stream_id) and not request.is_retry
            job.slot, job.group = group.slots.allocate(request.stream_id), group
            job.started_at = now
            job.decoding = decoding_of(request, self._limits)
        self._count_lanes(jobs, 1)
        return self._encode(group, jobs, cores)

    def _encode(self, group: Group, jobs: tuple[Job, ...], cores: Cores = Cores.ALL) -> Encode:
        """Encode the clips of these jobs, or the next piece of them."""
        clips = tuple(
            job.next_clip(in_pieces=self._limits.continues_clips and not (is_live(job) or job.continues)) for job in jobs
        )
        for job in jobs:
            number = job.request.request_id
            group.to_encode.pop(number, None)
            encoding = self._encoding if self._limits.encode_lanes else group.in_flight
            (encoding if job.is_encoded else group.to_encode)[number] = job
        group.encodes_in_a_row += 1
        return Encode(jobs, clips, cores)

    def _cores_for(self, job: Job) -> Cores:
        if is_live(job):
            others = self._live_waiting + sum(map(is_live, self._with_slots()))
            return Cores.ALL if others == 1 else Cores.ONE
        return Cores.ALL if self.in_flight == 0 and self.waiting == 1 else Cores.SPARE

    def _count_lanes(self, jobs: Sequence[Job], lanes: int) -> None:
        if self._limits.encode_lanes:
            self._lanes_taken += lanes
            self._lanes_taken_by_files += 0 if is_live(jobs[0]) else lanes

    def encoded(self, step: Encode) -> None:
        """Report that the step's lane is free and its slot has its audio, unless its request failed. For engines with lanes."""
        self._count_lanes(step.jobs, -1)
        for job in step.jobs:
            if self._encoding.get(job.request.request_id) is job:
                job.group.in_flight[job.request.request_id] = self._encoding.pop(job.request.request_id)

    def decoded(self, step: Decode, predictions: Sequence[Prediction], now: float) -> list[Result]:
        """Take one prediction for every row of the step; returns the results that are complete.

        Predictions for requests that are no longer in flight are ignored. Decodes of a group are answered in the order they were
        planned.
        """
        results, group = [], step.jobs[0].group
        for job, row, prediction in zip(step.jobs, step.rows, predictions, strict=True):
            if group.in_flight.get(job.request.request_id) is not job:
                continue
            job.unanswered -= 1
            log_probs = prediction.log_probs.tolist()
            if not math.isfinite(sum(log_probs)):
                self._poisoned.append(job.slot)
                results += self.fail([job], EngineFailed("what the model predicts is no number"), now)
                continue
            job.decoding.accept(row.tokens, prediction.tokens.tolist(), log_probs)
            if job.decoding.done and job.request.align and job.decoding.tokens:
                group.to_align[job.request.request_id] = group.in_flight.pop(job.request.request_id)
            elif job.decoding.done:
                self._retire(job)
                results.append(result_of(job, now))
        return results

    def aligned(self, step: Align, first_frames: Sequence[Sequence[int]], now: float) -> list[Result]:
        """Take the first frame of each of the jobs' tokens; returns the jobs' results."""
        results = []
        for job, frames in zip(step.jobs, first_frames, strict=True):
            if self._is_open(job):
                self._retire(job)
                timed = dataclasses.replace(
                    result_of(job, now), first_frames=tuple(frames), frame_samples=self._limits.frame_samples
                )
                results.append(timed)
        return results

    def fail(self, jobs: Iterable[Job], error: EngineError, now: float) -> list[Result]:
        """Answer these jobs with the error and free their slots."""
        failed = [job for job in jobs if self._is_open(job)]
        for job in failed:
            self._retire(job)
        return [result_of(job, now, error) for job in failed]

    def fail_all(self, error: EngineError, now: float) -> list[Result]:
        return self.fail(self._jobs(), error, now)

    def _is_open(self, job: Job) -> bool:
        return self._queue_of(job).get(job.request.request_id) is job

    def _queue_of(self, job: Job) -> dict[int, Job]:
        """Return the queue that holds the job, if any does."""
        if job.slot is None:
            return self._waiting[job.request.priority]
        queues = (self._encoding, job.group.to_encode, job.group.to_align)
        return next((queue for queue in queues if job.request.request_id in queue), job.group.in_flight)

    def _withdraw(self, jobs: Iterable[Job], why: str) -> list[Result]:
        return self.fail(jobs, RequestCancelled(why), now=0.0)

    def _jobs(self) -> Iterator[Job]:
        return itertools.chain(self._with_slots(), *(jobs.values() for jobs in self._waiting.values()))

    def _with_slots(self) -> Iterator[Job]:
        return itertools.chain(self._encoding.values(), *(group.jobs() for group in self._groups))

    def _retire(self, job: Job) -> None:
        del self._queue_of(job)[job.request.request_id]
        of_stream = self._of_stream[job.request.stream_id]
        del of_stream[job.request.request_id]
        if not of_stream:
            del self._of_stream[job.request.stream_id]
        if job.slot is not None:
            if self._limits.continues_clips and job.request.stream_id in self._streams:
                job.group.slots.keep(job.slot, job.request.stream_id)
            else:
                job.group.slots.free(job.slot)
