"""One stream: samples in, typed events out.

A stream is told what happened (audio, a result, time passing) and answers through `say` and `submit`. It reads no clock and waits
for nothing, so that tests drive it exactly. It ends in one of three ways: finish() asks for the final, fail() says why there is
none, drop() says nothing. All methods run on one thread.
"""

import enum
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runtime.audio import SAMPLE_RATE, Clip
from runtime.exceptions import EngineStopped, RequestCancelled
from runtime.scheduler.requests import Priority, Request, Result
from runtime.tokenizer import Tokenizer
from server.errors import Code
from server.settings import SessionLimits
from server.stream import attempts, edges
from server.stream.attempts import Attempt
from server.stream.confidence import DOUBTED_LOG_PROB, END_BIAS
from server.stream.events import Event, Failed, Final, Flushed, SpeechStarted, SpeechStopped, Update
from server.stream.segmenter import Cut, CutKind, Segmenter
from server.stream.transcript import NOTHING, Hypothesis, Segment, Transcript
from server.stream.turns import Turns
from server.stream.words import TimedHypothesis, Word, locate

MIN_NEW_SECONDS = 0.1  # of audio that make another interim worth its price
COMPLETE_SECONDS = 0.3  # of quiet behind the last sound: no word is cut off in its middle
MAX_UNHEARD_SECONDS = 1.0  # of quiet at the end that need not be transcribed: nothing in it rose above the background
BUSY_SHARE = 0.25  # of an interval that an update came late by: others wait for the engine, too
LONG_SECONDS = 3.0  # of an open segment: to hear a longer one anew costs the most, and says the least that is new
LONG_INTERVALS = 1.7  # between two updates of such a segment, while the engine is busy
AUDIO_STOPPED_SECONDS = 0.05  # without a message: what is due must be asked for all the same
ENOUGH_COMPLETE = 2  # hypotheses of all that was said: another one of more quiet would say nothing new

request_ids = itertools.count()


@dataclass(frozen=True)
class Options:
    """What a client asks of its stream."""

    words: bool = False
    """Do segments carry the times of their words?"""
    silence_seconds: float | None = None
    """How long a silence ends a turn; None: nobody asks for turns."""
    closes_turns: bool = False
    """Is the stream flushed at the end of each turn?"""
    is_file: bool = False
    """Is it a recording that can wait for whoever is speaking?"""


class State(enum.Enum):
    OPEN = "open"
    FINISHING = "finishing"
    ENDED = "ended"


@dataclass(frozen=True)
class Outstanding:
    """The one request under way."""

    request: Request
    end: int
    """Position behind its last sample."""
    cut: Cut | None
    """The cut it closes a segment at; None for an interim."""
    attempts: tuple[Attempt, ...]
    """What was heard in that segment before, with other edges."""
    complete_at: int | None
    """Position behind the last sound, if there is quiet enough behind it for the last word to be whole."""
    heard_at: float
    """When the newest sample known at its submission came in."""
    late_seconds: float
    """How long it had been due when it was submitted."""


@dataclass(frozen=True)
class Flush:
    """Asked for by the client, or by the end of a turn."""

    position: int
    asked_at: float


class Stream:
    """The segmenter and the transcript of one stream, and what is asked of the engine for them."""

    def __init__(
        self,
        stream_id: str,
        limits: SessionLimits,
        tokenizer: Tokenizer,
        say: Callable[[Event], bool],
        submit: Callable[[Request], None],
        now: float,
        options: Options = Options(),
        on_update: Callable[[float], None] = lambda late_seconds: None,
    ):
        """say: takes an event; False for an Update that was dropped, which the next one then says again.

        submit: hands a request to the engine, whose result must come back through on_result().
        on_update: told of every answered update how long after it was due the engine began with it, in seconds.
        """
        self.stream_id = stream_id
        self.state = State.OPEN
        self._limits = limits
        self._say, self._submit, self._on_update = say, submit, on_update
        self._options = options
        self._turns = None if options.silence_seconds is None else Turns(options.silence_seconds)
        self._segmenter = Segmenter(limits.max_segment_seconds)
        self._tokenizer = tokenizer
        self._transcript = Transcript(tokenizer, limits.stable_agreement)
        self._outstanding: Outstanding | None = None
        self._complete = (0, 0)  # position behind a segment's last sound, and how many results have heard it and quiet behind it
        self._transcribed_until = 0  # position behind the newest sample that any result has covered
        self._last_heard_at = now  # when audio last came
        self._last_interim_at = float("-inf")  # when the last interim was submitted
        self._last_late_seconds = 0.0  # how long after it was due the engine began with the last update
        self._due_at: float | None = None  # since when another one has been due, with a request under way
        self._waited_for: Outstanding | None = None  # the request under way when the clock was last looked at
        self._waits_since = now
        self._flushes: deque[Flush] = deque()  # that were asked for, the oldest first
        self._finished_at = 0.0  # when finish() was called
        self._last_shown = ("", 0, 0)  # text, stable, and how many segments are closed, as last said

    # What happens to a stream

    def hear(self, pcm: bytes, now: float) -> None:
        """pcm: PCM16 mono little-endian at 16 kHz, whole samples."""
        if self.state is not State.OPEN:
            return
        self._last_heard_at = now
        levels = self._segmenter.append(pcm)
        if self.waiting_seconds > self._limits.max_buffer_seconds:
            most = self._limits.max_buffer_seconds
            self.fail(
                Code.BUFFER_OVERFLOW,
                f"{self.waiting_seconds:.1f} s of audio wait to be transcribed; at most {most:g} s may",
            )
            return
        if self._turns is not None:
            self._tell_turns(self._turns.hear(levels), now)
        if levels or self._interim_is_due(now):  # nothing else comes between two levels
            self._advance(now)

    def hear_all(self, pcm: bytes, now: float) -> None:
        """The whole of a recording, and its end."""
        self._segmenter.append(pcm)
        self.finish(now)

    def ask(self, options: Options) -> None:
        """For something else from now on."""
        if options.silence_seconds != self._options.silence_seconds:
            self._turns = None if options.silence_seconds is None else Turns(options.silence_seconds)
        self._options = options

    def flush(self, now: float) -> None:
        """Close what was heard so far as at the end, and go on: Flushed is said when that is done."""
        if self.state is State.OPEN:
            self._flushes.append(Flush(self._segmenter.end, now))
            if self._turns is not None:
                self._turns.end()
            if len(self._flushes) > 1:
                return  # one after the other
            self._outstanding = None  # what is under way is asked for again, as a final: those go first
            self._advance(now)

    def on_result(self, result: Result, now: float) -> None:
        """The engine's answer to the outstanding request. Answers to requests that were replaced are ignored."""
        asked = self._outstanding
        if self.state is State.ENDED or asked is None or result.request is not asked.request:
            return
        self._outstanding = None
        if result.error is not None:
            if not isinstance(result.error, RequestCancelled):
                self.fail(Code.ENGINE_FAILED, f"the engine could not transcribe this stream: {result.error}")
            return
        self._transcribed_until = max(self._transcribed_until, asked.end)
        if self.state is State.OPEN:
            self._last_late_seconds = asked.late_seconds + result.timings.queue_ms / 1000
            self._on_update(self._last_late_seconds)
        if asked.cut is None:
            self._take_interim(result, asked, now)
        else:
            self._take_segment(result, asked, asked.cut, now)
        if self.state is not State.ENDED:
            self._advance(now)

    def on_time(self, now: float) -> None:
        """Called now and then, to notice what does not happen."""
        if self._end_position is not None and now - self._asked_at > self._limits.close_timeout_seconds:
            self.fail(Code.ENGINE_FAILED, f"no final within {self._limits.close_timeout_seconds:g} s of closing")
        elif self._waits_in_vain(now):
            self.fail(Code.ENGINE_FAILED, f"the engine has not answered within {self._limits.close_timeout_seconds:g} s")
        elif self.state is State.OPEN and now - self._last_heard_at > AUDIO_STOPPED_SECONDS:
            self._advance(now)  # audio that comes does it by itself

    def _waits_in_vain(self, now: float) -> bool:
        """A recording may wait for as long as others speak."""
        if self._outstanding is not self._waited_for:
            self._waited_for, self._waits_since = self._outstanding, now
        if self._outstanding is None or self._options.is_file or self.state is State.ENDED:
            return False
        return now - self._waits_since > self._limits.close_timeout_seconds

    def finish(self, now: float) -> None:
        """The audio has ended: transcribe what is left and say the final. Harmless when that is under way."""
        if self.state is State.OPEN:
            self.state = State.FINISHING
            self._finished_at = now
            self._outstanding = None  # what is under way is asked for again, as a final: those go first
            self._advance(now)

    def fail(self, code: Code, message: str) -> None:
        """Say why there will be no final, with the text that may be kept."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        transcript = self._transcript
        text, audio_ms = transcript.text[: transcript.stable], milliseconds(self._segmenter.start)
        self._say(Failed(code, message, text, transcript.segments, audio_ms))

    def drop(self) -> None:
        """Nobody listens any more: say nothing."""
        self.state = State.ENDED

    @property
    def segments(self) -> Sequence[Segment]:
        """Those that are closed."""
        return self._transcript.segments

    @property
    def closed_ms(self) -> int:
        """Up to there all is in closed segments, or silence."""
        return milliseconds(self._segmenter.start)

    @property
    def waiting_seconds(self) -> float:
        """Audio that no result has covered."""
        return (self._segmenter.end - self._transcribed_until) / SAMPLE_RATE

    @property
    def backlog_seconds(self) -> float:
        """Audio that waits to be transcribed; quiet behind what was is no backlog."""
        heard_until = max(self._transcribed_until, self._segmenter.start)
        if self.state is State.ENDED or self._segmenter.loud_until <= heard_until:
            return 0.0
        return (self._segmenter.end - heard_until) / SAMPLE_RATE

    # What a stream does about it

    def _advance(self, now: float) -> None:
        """Ask for the next thing worth asking for, if nothing is under way: a closed segment, the last one, an interim."""
        if self._outstanding is not None:
            if self._due_at is None and self.state is State.OPEN and self._interim_is_due(now):
                self._due_at = now
            return
        segmenter, end = self._segmenter, self._end_position
        if (cut := segmenter.find_cut()) and (end is None or cut.position <= end):
            self._request_segment(cut)
        elif end is not None and end > segmenter.start and self._has_nothing_to_add(end):
            self._commit(self._transcript.newest, end, None, NOTHING)
            self._say_end(now)
        elif end is not None and end > segmenter.start:
            self._request_segment(Cut(end, CutKind.END))
        elif end is not None:
            self._say_end(now)
        elif not self._interim_is_due(now):
            self._due_at = None  # what was due has come with something else
        else:
            late_seconds = 0.0 if self._due_at is None else now - self._due_at
            self._due_at, self._last_interim_at = None, now
            self._request_interim(late_seconds)

    @property
    def _end_position(self) -> int | None:
        """Up to where the end, or a flush, asks for text that will not change; None while nothing does."""
        if self.state is State.FINISHING:
            return self._segmenter.end
        return self._flushes[0].position if self._flushes else None

    @property
    def _asked_at(self) -> float:
        """When that was asked for."""
        return self._flushes[0].asked_at if self.state is State.OPEN and self._flushes else self._finished_at

    def _interim_is_due(self, now: float) -> bool:
        if now - self._last_interim_at < self._interval_seconds:
            return False
        if not self._segmenter.has_sound or self._heard_it_all(ENOUGH_COMPLETE):
            return False
        return self._segmenter.end - max(self._transcribed_until, self._segmenter.start) >= MIN_NEW_SECONDS * SAMPLE_RATE

    @property
    def _interval_seconds(self) -> float:
        """Shortest time between two interims: while the engine is busy, segments that are long by now leave it to the others."""
        interval_seconds = self._limits.interim_interval_seconds
        is_long = self._segmenter.end - self._segmenter.start > LONG_SECONDS * SAMPLE_RATE
        is_busy = self._last_late_seconds > BUSY_SHARE * interval_seconds
        return interval_seconds * (LONG_INTERVALS if is_long and is_busy else 1.0)

    def _heard_it_all(self, times: int = 1) -> bool:
        """Have so many results heard everything that was said in the open segment, and quiet behind it?"""
        loud_until, results = self._complete
        return results >= times and loud_until == self._segmenter.loud_until

    def _has_nothing_to_add(self, end: int) -> bool:
        """Can the last hypothesis be the final one? It is believed, what came since is short and quiet, words need no times."""
        unheard = end - self._transcribed_until
        if (
            self._options.words
            or unheard > MAX_UNHEARD_SECONDS * SAMPLE_RATE
            or self._transcript.newest.belief < DOUBTED_LOG_PROB
        ):
            return False
        return self._heard_it_all() and self._segmenter.is_quiet_from(self._transcribed_until, end)

    def _request_interim(self, late_seconds: float) -> None:
        end, transcript = self._segmenter.end, self._transcript
        unheard_seconds = (end - max(self._transcribed_until, self._segmenter.start)) / SAMPLE_RATE
        request = Request(
            request_id=next(request_ids),
            stream_id=self.stream_id,
            clip=self._segmenter.clip_so_far(end),
            unheard_seconds=unheard_seconds if transcript.draft else None,
            draft=transcript.draft,
            forced=transcript.forced,
            end_bias=END_BIAS,
        )
        self._ask(request, end, None, (), late_seconds)

    def _request_segment(self, cut: Cut, before: tuple[Attempt, ...] = ()) -> None:
        """before: what was heard in it already, with other edges."""
        draft = self._transcript.draft
        if before and not before[-1].ran_away and len(before[-1].result.tokens) >= self._transcript.forced:
            draft = draft[: self._transcript.forced] + before[-1].result.tokens[self._transcript.forced :]
        request = Request(
            request_id=next(request_ids),
            stream_id=self.stream_id,
            clip=self._clip_of(cut, len(before)),
            is_retry=bool(before),
            draft=draft,
            forced=self._transcript.forced,
            priority=self._priority,
            end_bias=attempts.end_bias(before),
            align=self._options.words or cut.kind is CutKind.LENGTH or bool(before),
        )
        self._ask(request, cut.position, cut, before)

    @property
    def _priority(self) -> Priority:
        """Of a segment that is to be closed."""
        if self._options.is_file:
            return Priority.FILE
        return Priority.INTERIM if self._end_position is None else Priority.FINAL

    def _clip_of(self, cut: Cut, attempt: int) -> Clip:
        """A cut by length goes through what is said, and a quiet one has no edges."""
        if cut.kind is CutKind.QUIET or (cut.kind is CutKind.LENGTH and not attempt):
            return self._segmenter.clip(cut.position)
        leads = self._leads(cut)
        return self._segmenter.clip_between(cut.position, leads[min(attempt, len(leads) - 1)])

    def _leads(self, cut: Cut) -> Sequence[edges.Lead]:
        first, last = self._segmenter.sound(cut.position)
        return edges.leads(last - first)

    def _ask(self, request: Request, end: int, cut: Cut | None, before: tuple[Attempt, ...], late_seconds: float = 0.0) -> None:
        loud_until = self._segmenter.loud_until
        complete_at = loud_until if end - loud_until >= COMPLETE_SECONDS * SAMPLE_RATE else None
        self._outstanding = Outstanding(request, end, cut, before, complete_at, self._last_heard_at, late_seconds)
        try:
            self._submit(request)
        except EngineStopped as exc:
            self.fail(Code.ENGINE_FAILED, str(exc))

    def _take_interim(self, result: Result, asked: Outstanding, now: float) -> None:
        heard = attempts.hypothesis_of(result, self._tokenizer)
        is_whole = asked.complete_at is not None and not result.cut_short and not self._transcript.has_lost_sight(heard.tokens)
        self._transcript.update(heard, complete=is_whole)
        if is_whole and asked.complete_at is not None:
            loud_until, results = self._complete
            self._complete = (asked.complete_at, results + 1 if loud_until == asked.complete_at else 1)
        self._show(asked, now)

    def _take_segment(self, result: Result, asked: Outstanding, cut: Cut, now: float) -> None:
        heard = (*asked.attempts, attempts.attempt_of(result, self._tokenizer, self._transcript.has_lost_sight))
        if cut.kind is CutKind.QUIET and heard[-1].heard.tokens:
            # Words where nothing was loud: they may go on behind this cut, which was made for silence.
            self._segmenter.keep_open()
            self._take_interim(result, asked, now)
            return
        if self._may_be_heard_better(cut, heard):
            self._request_segment(cut, heard)
            return
        best = max(heard, key=lambda attempt: attempt.rank)
        if best.lost_sight and self._transcript.keep_what_is_in_sight():
            self._request_segment(cut, heard)
            return
        self._close_segment(best, cut)
        self._show(asked, now)

    def _may_be_heard_better(self, cut: Cut, heard: Sequence[Attempt]) -> bool:
        """Is the newest attempt doubted, and is there another to make? A cut by length is asked once more where it failed."""
        newest, has_failed = heard[-1], heard[-1].ran_away or heard[-1].lost_sight or not heard[-1].heard.tokens
        if cut.kind is CutKind.QUIET or len(heard) >= len(self._leads(cut)):
            return False
        return self._segmenter.has_sound and (has_failed if cut.kind is CutKind.LENGTH else newest.is_doubted)

    def _close_segment(self, best: Attempt, cut: Cut) -> None:
        """Commit what was heard, up to the cut, or up to where it can be trusted: the rest is asked for again."""
        heard, position, rest = best.heard, cut.position, NOTHING
        tokens = heard.tokens
        spoken = self._locate(best, cut.position) if tokens and best.result.first_frames else None
        count = len(spoken.begins) - 1 if spoken else 0
        if spoken and best.ran_away:
            count = spoken.whole_words(len(tokens))
            position = spoken.end_of(count, default=cut.position)
            heard, _ = heard.divided(spoken.begins[count])
        elif cut.kind is CutKind.LENGTH:
            position = self._segmenter.place(cut, spoken.between_words if spoken else ())
            count = spoken.words_before(position) if spoken else 0
            heard, rest = heard.divided(spoken.begins[count] if spoken else 0)
        words = spoken.words(self._tokenizer, count, position) if spoken else ()
        self._commit(heard, position, words if self._options.words else None, rest)

    def _commit(self, heard: Hypothesis, position: int, words: tuple[Word, ...] | None, rest: Hypothesis) -> None:
        """Close the open segment at a position with what was heard; the rest of the hypothesis belongs to the next one."""
        start_ms, end_ms = milliseconds(self._segmenter.start), milliseconds(position)
        self._transcript.commit(heard.tokens, start_ms, end_ms, rest, words, heard.belief)
        self._segmenter.advance(position)
        self._complete = (0, 0)

    def _locate(self, attempt: Attempt, end: int) -> TimedHypothesis:
        result = attempt.result
        frames, pauses = result.first_frames or (), self._segmenter.pauses(end)
        return locate(result.tokens, frames, self._tokenizer, result.request.clip, pauses)

    def _show(self, asked: Outstanding, now: float) -> None:
        """Say an update if it says anything new. Behind a finish the final does, and at the end of a flush Flushed."""
        shown = (self._transcript.text, self._transcript.stable, len(self._transcript.segments))
        is_flushed = self._end_position is not None and self._segmenter.start >= self._end_position
        if shown == self._last_shown or self.state is not State.OPEN or is_flushed:
            return
        latency_ms = (now - asked.heard_at) * 1000
        if self._say(Update(*shown[:2], self._transcript.segments, milliseconds(asked.end), latency_ms)):
            self._last_shown = shown

    def _tell_turns(self, turns: Iterable[SpeechStarted | SpeechStopped], now: float) -> None:
        for event in turns:
            self._say(event)
            if isinstance(event, SpeechStopped) and self._options.closes_turns:
                self.flush(now)

    def _say_end(self, now: float) -> None:
        """The final, or that a flush is done; the stream then goes on."""
        text, segments = self._transcript.text, self._transcript.segments
        latency_ms = (now - self._asked_at) * 1000
        if self.state is State.FINISHING:
            self.state = State.ENDED
            self._say(Final(text, segments, milliseconds(self._segmenter.end), latency_ms))
            return
        self._flushes.popleft()
        self._last_shown = (self._transcript.text, self._transcript.stable, len(segments))
        self._say(Flushed(text, segments, milliseconds(self._segmenter.start), latency_ms))
        self._advance(now)


def milliseconds(position: int) -> int:
    return position * 1000 // SAMPLE_RATE
