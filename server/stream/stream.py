"""One stream: samples in, typed events out.

The caller reports events (audio, a result, time passing), and the stream answers through `say` and `submit`. It reads no clock
and waits for nothing, so that tests control it exactly. It ends in one of three ways: finish() requests the final, fail() reports
why there is none, drop() sends nothing. All methods run on one thread.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineStopped, RequestCancelled
from runtime.scheduler.requests import Priority, Request, Result
from runtime.tokenizer import Tokenizer
from runtime.turns.log_mel import WINDOW_SAMPLES
from server.errors import Code
from server.settings import SessionLimits
from server.stream import retries
from server.stream.confidence import DOUBTED_LOG_PROB
from server.stream.events import Event, Failed, Final, Flushed, SpeechStarted, SpeechStopped, TurnPause, Update
from server.stream.formatting.options import PLAIN_TEXT, TextOptions
from server.stream.formatting.transcript import formatted
from server.stream.loudness import LEVEL_SAMPLES
from server.stream.pace import Pace
from server.stream.pending_ends import PendingEnds
from server.stream.retries import Attempt
from server.stream.segment_end import end_of
from server.stream.segment_requests import OutstandingRequest, SegmentRequests
from server.stream.segmenter import Cut, CutKind, Segmenter
from server.stream.streaming_segmenter import StreamingSegmenter
from server.stream.terms import Term, keyterms_of
from server.stream.transcript import NOTHING, Hypothesis, Segment, Transcript
from server.stream.turns import TurnRule, Turns
from server.stream.update_clock import AnswerWatch, CompleteResults, UpdateClock
from server.stream.word_times import Word

MIN_NEW_SECONDS = 0.1  # least new audio that is worth another interim
COMPLETE_SECONDS = 0.3  # quiet after the last sound: no word is cut off in its middle
MAX_UNCOVERED_SECONDS = 1.0  # quiet at the end that need not be transcribed: nothing in it rose above the background
AUDIO_STOPPED_SECONDS = 0.05  # time without a message after which due requests are submitted all the same
ENOUGH_COMPLETE = 2  # hypotheses of all speech so far: another one with more quiet would add nothing


@dataclass(frozen=True)
class Options:
    """Options of a stream, as requested by its client."""

    words: bool = False
    """True if segments carry the times of their words."""
    silence_seconds: float | None = None
    """Seconds of silence that end a turn; None if turns are not requested."""
    end_threshold: float | None = None
    """Probability that ends a turn earlier; None: only silence ends it."""
    weighs_pauses: bool = False
    """True if text and sound are weighed in each pause, even if they end no turn here."""
    reports_pauses: bool = False
    """True if each pause is reported while it lasts."""
    closes_turns: bool = False
    """True if the stream is flushed at the end of each turn."""
    is_file: bool = False
    """True for a recording, which can wait for live speech."""
    terms: tuple[Term, ...] = ()
    """Terms that the client expects."""
    tokens: bool = False
    """True if segments carry their tokens with their probabilities."""
    text: TextOptions = PLAIN_TEXT
    """Rules that rewrite the text before it is sent."""

    @property
    def turn_rule(self) -> TurnRule | None:
        if self.silence_seconds is None:
            return None
        return TurnRule(self.silence_seconds, self.end_threshold, self.weighs_pauses, self.reports_pauses)


Judge = Callable[[np.ndarray, Callable[[float], None]], None]
"""Asks the turn model about audio, int16 (samples,) at 16 kHz. The callback takes the answer: the probability that the speaker
has finished."""


def judge_nothing(samples: np.ndarray, answer: Callable[[float], None]) -> None:
    """Default if there is no turn model."""


class StreamState(enum.Enum):
    OPEN = "open"
    FINISHING = "finishing"
    ENDED = "ended"


class Stream:
    """The segmenter and the transcript of one stream, and its requests to the engine."""

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
        encodes_streams: bool = False,
        judge: Judge = judge_nothing,
    ):
        """say: takes an event; returns False for an Update that was dropped. The next Update then has the same content again.

        submit: passes a request to the engine. The result must come back through on_result().
        on_update: called for every answered update with the seconds from its due time to its start in the engine.
        encodes_streams: True for a streaming model, False for a model of clips.
        judge: asks the turn model about the end of the audio. The answer is a probability, or never comes.
        """
        self.stream_id, self.state = stream_id, StreamState.OPEN
        self._limits, self._options = limits, options
        self._say, self._submit, self._on_update, self._judge = say, submit, on_update, judge
        self.turns = Turns(options.turn_rule)
        self._segmenter = (StreamingSegmenter if encodes_streams else Segmenter)(limits.max_segment_seconds)
        self._tokenizer, self._transcript = tokenizer, Transcript(tokenizer, limits.stable_agreement)
        self._text = formatted(self._transcript, options.text)
        self._outstanding: OutstandingRequest | None = None
        self._complete, self._watch = CompleteResults(), AnswerWatch(now, limits.close_timeout_seconds)
        self._transcribed_until = 0  # position after the newest sample that any result covers
        self._last_audio_at = now  # when audio last came
        self._pace = Pace(now)
        self._look_at = now  # time from which audio is handled although it fills no block
        self._clock = UpdateClock(limits.interim_interval_seconds, long_costs_more=not encodes_streams)
        self._requests = SegmentRequests(stream_id, self._segmenter, self._transcript, self._pace, options.is_file)
        self._requests.keyterms = keyterms_of(options.terms, tokenizer)
        self._ends, self._is_cut = PendingEnds(), False  # True if the speaker may go on elsewhere after the end
        self._last_shown = ("", 0, 0)  # text, stable and number of closed segments, as last sent

    def receive(self, pcm: bytes, now: float) -> None:
        """Take audio. pcm: PCM16 mono little-endian at 16 kHz, whole samples."""
        if self.state is not StreamState.OPEN:
            return
        self._last_audio_at = now
        self._segmenter.hold(pcm)
        if self._segmenter.has_block or now >= self._look_at:
            self._look(now)

    def _look(self, now: float) -> None:
        """Handle the audio received so far: a block is full, or an update may be due."""
        levels = self._segmenter.measure()
        self._pace.reach(self._segmenter.end, now)
        if (waiting := self.waiting_seconds) > (most := self._limits.max_buffer_seconds):
            self.fail(Code.BUFFER_OVERFLOW, f"{waiting:.1f} s of audio wait to be transcribed; at most {most:g} s may")
            return
        if levels:
            self._say_turns(self.turns.receive(levels, self._segmenter.measured_until // LEVEL_SAMPLES), now)
            if (pause := self.turns.pause_to_judge()) is not None:
                self._judge(self._segmenter.newest(WINDOW_SAMPLES), partial(self._take_sound, pause))
        self._advance(now)

    def receive_all(self, pcm: bytes, now: float) -> None:
        """Take a whole recording, and finish."""
        self._segmenter.append(pcm)
        self.finish(now)

    def ask(self, options: Options) -> None:
        """Change the options from now on."""
        self.turns.change(options.turn_rule)
        self._options, self._requests.keyterms = options, keyterms_of(options.terms, self._tokenizer)

    def flush(self, now: float) -> None:
        """Close the text of the audio received so far as at the end, and go on. Flushed is sent when that is done."""
        if self.state is StreamState.OPEN:
            self.turns.end()
            if self._ends.flush(self._segmenter.end, now):  # flushes run one after the other
                self._outstanding = None  # the request under way is made again as a final: finals go first
                self._advance(now)

    def on_result(self, result: Result, now: float) -> None:
        """Take the engine's answer to the outstanding request. Answers to requests that were replaced are ignored."""
        asked = self._outstanding
        if self.state is StreamState.ENDED or asked is None or result.request is not asked.request:
            return
        self._outstanding = None
        if result.error is not None:
            if not isinstance(result.error, RequestCancelled):
                self.fail(Code.ENGINE_FAILED, f"the engine could not transcribe this stream: {result.error}")
            return
        self._transcribed_until = max(self._transcribed_until, asked.end)
        self._watch.answered(now)
        if self.state is StreamState.OPEN and result.request.priority is not Priority.FILE:
            late_seconds = asked.late_seconds + result.timings.queue_ms / 1000
            self._clock.answered(late_seconds)
            self._on_update(late_seconds)
        if asked.cut is None:
            self._take_interim(result, asked, now)
        else:
            self._take_segment(result, asked, asked.cut, now)
        if self.state is not StreamState.ENDED:
            self._advance(now)

    def on_time(self, now: float) -> None:
        """Check for answers and audio that do not come. Called from time to time."""
        if self.state is StreamState.ENDED:
            return
        if problem := self._watch.look(self._outstanding, self._ends.asked_at, now):
            self.fail(Code.ENGINE_FAILED, problem)
        elif self._watch.has_waited_long and not self._options.is_file:
            self._pace.forgive()
            self._outstanding = None  # it is asked for again, as live speech
            self._advance(now)
        elif self.state is StreamState.OPEN and now - self._last_audio_at > AUDIO_STOPPED_SECONDS:
            self._advance(now)  # while audio comes, receive() does it

    def finish(self, now: float, is_cut: bool = False) -> None:
        """End the audio: transcribe the rest and send the final. Does nothing if that is under way."""
        if self.state is StreamState.OPEN:
            self.state, self._is_cut = StreamState.FINISHING, is_cut
            self._ends.finish(now)
            self._outstanding = None  # the request under way is made again as a final: finals go first
            self._advance(now)

    def fail(self, code: Code, message: str) -> None:
        """Report why there will be no final, with the text that may be kept."""
        if self.state is not StreamState.ENDED:
            self.state = StreamState.ENDED
            text, audio_ms = self._text.text[: self._text.stable], milliseconds(self._segmenter.start)
            self._say(Failed(code, message, text, self._text.segments, audio_ms))

    def drop(self) -> None:
        """End the stream without an event: nobody receives events any more."""
        self.state = StreamState.ENDED

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments that are closed, in the order of the audio."""
        return self._text.segments

    @property
    def closed_ms(self) -> int:
        """Position in milliseconds up to which all audio is in closed segments, or is silence."""
        return milliseconds(self._segmenter.start)

    @property
    def waiting_seconds(self) -> float:
        """Seconds of audio that no result covers."""
        return (self._segmenter.end - self._transcribed_until) / SAMPLE_RATE

    @property
    def backlog_seconds(self) -> float:
        """Seconds of audio that wait to be transcribed; quiet after transcribed audio is no backlog."""
        covered_until = max(self._transcribed_until, self._segmenter.start)
        if self.state is StreamState.ENDED or self._segmenter.loud_until <= covered_until:
            return 0.0
        return (self._segmenter.end - covered_until) / SAMPLE_RATE

    def _advance(self, now: float) -> None:
        while self._ask_for_next(now):
            continue
        next_at = self._next_update_at
        self._look_at = next_at if next_at > now else float("inf")  # otherwise it waits for sound, which is measured in blocks

    def _ask_for_next(self, now: float) -> bool:
        """Request a closed segment, the last one or an interim, if no request is under way. Returns True if a flush is done."""
        if self._outstanding is not None:
            if not self._clock.is_overdue and self.state is StreamState.OPEN and self._interim_is_due(now):
                self._clock.is_due(now)
            return False
        segmenter, end = self._segmenter, self._end_position
        if (cut := segmenter.find_cut()) and (end is None or cut.position <= end):
            self._request_segment(cut)
        elif end is not None and end > segmenter.start and self._has_nothing_to_add(end):
            self._commit(self._transcript.newest, end, None, NOTHING)
            return self._say_end(now)
        elif end is not None and end > segmenter.start:
            self._request_segment(Cut(end, CutKind.END))
        elif end is not None:
            return self._say_end(now)
        elif not self._interim_is_due(now):
            self._clock.forget()
        else:
            late_seconds = self._clock.begin(now)
            request = self._requests.interim(segmenter.end_of_update, self._transcribed_until)
            self._ask(request, segmenter.end_of_update, None, (), late_seconds)
        return False

    @property
    def _end_position(self) -> int | None:
        return self._ends.position(self._segmenter.end)

    @property
    def _next_update_at(self) -> float:
        return self._clock.next_at(self._segmenter.end - self._segmenter.start)

    def _interim_is_due(self, now: float) -> bool:
        is_time = self.turns.wants_text or now >= self._next_update_at
        if not is_time or not self._segmenter.has_sound or self._complete.reach(ENOUGH_COMPLETE, self._segmenter.loud_until):
            return False
        return self._segmenter.end - max(self._transcribed_until, self._segmenter.start) >= MIN_NEW_SECONDS * SAMPLE_RATE

    def _has_nothing_to_add(self, end: int) -> bool:
        """True if the last hypothesis can be the final one: not doubted, only short and quiet audio since, no times needed."""
        is_long = end - self._transcribed_until > MAX_UNCOVERED_SECONDS * SAMPLE_RATE
        if self._options.words or is_long or self._transcript.newest.belief < DOUBTED_LOG_PROB:
            return False
        return self._complete.reach(1, self._segmenter.loud_until) and self._segmenter.is_quiet_from(self._transcribed_until, end)

    def _request_segment(self, cut: Cut, before: tuple[Attempt, ...] = ()) -> None:
        """Submit a segment. before: earlier attempts at it, with other edges."""
        request = self._requests.segment(cut, before, self._end_position, self._options.words)
        self._ask(request, cut.position, cut, before)

    def _ask(self, request: Request, end: int, cut: Cut | None, before: tuple[Attempt, ...], late_seconds: float = 0.0) -> None:
        loud_until = self._segmenter.loud_until
        complete_at = loud_until if end - loud_until >= COMPLETE_SECONDS * SAMPLE_RATE else None
        self._outstanding = OutstandingRequest(request, end, cut, before, complete_at, self._last_audio_at, late_seconds)
        try:
            self._submit(request)
        except EngineStopped as exc:
            self.fail(Code.ENGINE_FAILED, str(exc))

    def _take_interim(self, result: Result, asked: OutstandingRequest, now: float) -> None:
        hypothesis = retries.hypothesis_of(result, self._tokenizer)
        if self.turns.weighs_pauses:
            self.turns.take_text(asked.end, retries.evidence_of(result, hypothesis, self._tokenizer))
        is_whole = (
            asked.complete_at is not None and not result.cut_short and not self._transcript.has_lost_sight(hypothesis.tokens)
        )
        self._transcript.update(hypothesis, complete=is_whole)
        if is_whole and asked.complete_at is not None:
            self._complete.count(asked.complete_at)
        self._show(asked, now)
        if self.state is StreamState.OPEN:
            self._say_turns(self.turns.decide(), now)

    def _take_segment(self, result: Result, asked: OutstandingRequest, cut: Cut, now: float) -> None:
        attempts = (*asked.attempts, retries.attempt_of(result, self._tokenizer, self._transcript.has_lost_sight))
        if cut.kind is CutKind.QUIET and attempts[-1].hypothesis.tokens:
            # There are words where nothing was loud: they may go on after this cut, which was made for silence.
            self._segmenter.keep_open()
            self._take_interim(result, asked, now)
            return
        if self._requests.can_try_again(cut, attempts):
            self._request_segment(cut, attempts)
            return
        best = max(attempts, key=lambda attempt: attempt.rank)
        if best.lost_sight and self._transcript.keep_what_is_in_sight():
            self._request_segment(cut, attempts)
            return
        end = end_of(best, cut, self._segmenter, self._tokenizer)
        self._commit(end.committed, end.position, end.words if self._options.words else None, end.rest)
        self._show(asked, now)

    def _commit(self, hypothesis: Hypothesis, position: int, words: tuple[Word, ...] | None, rest: Hypothesis) -> None:
        """Close the open segment at a position with its hypothesis. rest: the part that belongs to the next segment."""
        start_ms, end_ms = milliseconds(self._segmenter.start), milliseconds(position)
        self._transcript.commit(hypothesis, start_ms, end_ms, rest, words, self._options.tokens)
        self._segmenter.advance(position)
        self._complete = CompleteResults()

    def _show(self, asked: OutstandingRequest, now: float) -> None:
        """Send an update if it has anything new. After finish() the final has it, and at the end of a flush Flushed."""
        is_flushed = self._end_position is not None and self._segmenter.start >= self._end_position
        if self.state is not StreamState.OPEN or is_flushed:
            return
        shown = (self._text.text, self._text.stable, len(self._text.segments))
        update = Update(*shown[:2], self._text.segments, milliseconds(asked.end), (now - asked.audio_at) * 1000)
        if shown != self._last_shown and self._say(update):
            self._last_shown = shown

    def _take_sound(self, pause: int, probability: float) -> None:
        if self.state is StreamState.OPEN:
            self.turns.take_sound(pause, probability)
            self._say_turns(self.turns.decide(), self._last_audio_at)

    def _say_turns(self, turns: Iterable[SpeechStarted | SpeechStopped | TurnPause], now: float) -> None:
        for event in turns:
            self._say(event)
            if isinstance(event, SpeechStopped) and self._options.closes_turns:
                self.flush(now)

    def _say_end(self, now: float) -> bool:
        """Send the final, or Flushed for a flush that is done. Returns True if the stream goes on."""
        text, latency_ms = self._text, (now - self._ends.asked_at) * 1000
        if self.state is StreamState.FINISHING:
            text.end(self._is_cut)
            self.state = StreamState.ENDED
            self._say(Final(text.text, text.segments, milliseconds(self._segmenter.end), latency_ms))
            return False
        self._ends.flushed()
        self._transcript.end_sentence()
        self._last_shown = (text.text, text.stable, len(text.segments))
        self._say(Flushed(text.text, text.segments, milliseconds(self._segmenter.start), latency_ms))
        return self.state is StreamState.OPEN  # it may have been dropped meanwhile


def milliseconds(position: int) -> int:
    return position * 1000 // SAMPLE_RATE
