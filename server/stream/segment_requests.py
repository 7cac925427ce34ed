"""Requests to the engine about the open segment: for an update, and for a segment that is to be closed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.audio import SAMPLE_RATE, Clip
from runtime.scheduler.keyterms import Keyterms
from runtime.scheduler.requests import Priority, Request
from server.stream import edges, retries
from server.stream.confidence import END_BIAS
from server.stream.pace import Pace
from server.stream.retries import Attempt
from server.stream.segmenter import Cut, CutKind, Segmenter
from server.stream.transcript import Transcript

request_ids = itertools.count()
NEAR_SAMPLES = 2 * SAMPLE_RATE  # before the newest audio: a client that sends fast audio may wait for text up to there


@dataclass(frozen=True)
class OutstandingRequest:
    """The one request under way."""

    request: Request
    end: int
    """Position after its last sample."""
    cut: Cut | None
    """The cut it closes a segment at; None for an interim."""
    attempts: tuple[Attempt, ...]
    """Earlier attempts at the segment, with other edges."""
    complete_at: int | None
    """Position after the last sound, if there is quiet enough after it for the last word to be whole."""
    audio_at: float
    """Time when the newest sample known at the submission came in."""
    late_seconds: float
    """Seconds from its due time to its submission."""


class SegmentRequests:
    """Makes the requests of one stream."""

    def __init__(self, stream_id: str, segmenter: Segmenter, transcript: Transcript, pace: Pace, is_file: bool):
        """Make one for a stream. is_file: True for a recording."""
        self._stream_id, self._segmenter, self._transcript = stream_id, segmenter, transcript
        self._pace, self._is_file = pace, is_file
        self.keyterms: Keyterms | None = None

    def _priority(self, awaited_until: int | None) -> Priority:
        """Return the priority of a request. awaited_until: position up to which the client waits for text; None: it does not."""
        is_fast = self._pace.is_fast
        is_awaited = awaited_until is not None and not (is_fast and self._segmenter.end - awaited_until > NEAR_SAMPLES)
        if self._is_file or (is_fast and not is_awaited):
            return Priority.FILE
        return Priority.FINAL if is_awaited else Priority.INTERIM

    def interim(self, end: int, transcribed_until: int) -> Request:
        """Return a request for the open segment up to `end`. transcribed_until: position up to which results cover the audio."""
        transcript = self._transcript
        uncovered_seconds = (end - max(transcribed_until, self._segmenter.start)) / SAMPLE_RATE
        return Request(
            request_id=next(request_ids),
            stream_id=self._stream_id,
            clip=self._segmenter.clip_so_far(end),
            uncovered_seconds=uncovered_seconds if transcript.draft else None,
            draft=transcript.draft,
            forced=transcript.forced,
            priority=self._priority(None),
            end_bias=END_BIAS,
            keyterms=self.keyterms,
        )

    def segment(self, cut: Cut, before: tuple[Attempt, ...], awaited_until: int | None, words: bool) -> Request:
        """Return a request for a segment that is to be closed.

        before: earlier attempts at it, with other edges. awaited_until: position up to which the client waits for text, or None.
        """
        draft, forced = self._transcript.draft, self._transcript.forced
        if before and not before[-1].ran_away and len(before[-1].result.tokens) >= forced:
            draft = draft[:forced] + before[-1].result.tokens[forced:]
        return Request(
            request_id=next(request_ids),
            stream_id=self._stream_id,
            clip=self._clip_of(cut, len(before)),
            is_retry=bool(before),
            draft=draft,
            forced=forced,
            priority=self._priority(awaited_until),
            end_bias=retries.end_bias(before),
            align=words or cut.kind is CutKind.LENGTH or bool(before),
            keyterms=self._keyterms_after(before),
        )

    def _keyterms_after(self, before: Sequence[Attempt]) -> Keyterms | None:
        """Return no keyterms after a failed attempt: a term may have caused the repetition, or a text that is not speech."""
        has_failed = before and (before[-1].ran_away or not before[-1].hypothesis.tokens)
        return None if has_failed else self.keyterms

    def can_try_again(self, cut: Cut, attempts: Sequence[Attempt]) -> bool:
        """True if the newest attempt is doubted and another can be made. A cut by length gets one more if it failed."""
        newest = attempts[-1]
        has_failed = newest.ran_away or newest.lost_sight or not newest.hypothesis.tokens
        if cut.kind is CutKind.QUIET or len(attempts) >= len(self._leads(cut)):
            return False
        return self._segmenter.has_sound and (has_failed if cut.kind is CutKind.LENGTH else newest.is_doubted)

    def _clip_of(self, cut: Cut, attempt: int) -> Clip:
        if (not attempt or cut.kind is CutKind.QUIET) and (clip := self._segmenter.closing_clip(cut)):
            return clip
        leads = self._leads(cut)
        return self._segmenter.clip_between(cut.position, leads[min(attempt, len(leads) - 1)])

    def _leads(self, cut: Cut) -> Sequence[edges.Lead]:
        first, last = self._segmenter.sound(cut.position)
        return edges.leads(last - first)
