"""One stream's life: init, streaming, closing, closed.

A session is told what happened (a message, audio, a result, time passing) and answers through `send` and `submit`. It
reads no clock and waits for nothing, so that tests drive it exactly; transports and the engine loop do the rest.
All methods run on the event loop's thread.
"""

import enum
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineStopped, RequestCancelled
from runtime.scheduler.requests import Priority, Request, Result
from runtime.tokenizer import Tokenizer
from server.dialects import native
from server.dialects.native import Close, Init, ProtocolError, Reason
from server.stream.confidence import END_BIAS, is_speech
from server.stream.segmenter import Cut, CutKind, Segmenter
from server.stream.transcript import NOTHING, Hypothesis, Transcript
from server.stream.words import Spoken, Word, locate

MIN_NEW_SECONDS = 0.1  # of audio that make another interim worth its price
COMPLETE_SECONDS = 0.3  # of quiet behind the last sound: no word is cut off in its middle
MAX_UNHEARD_SECONDS = 1.0  # of quiet at the end that need not be transcribed: nothing in it rose above the background
AUDIO_STOPPED_SECONDS = 0.05  # without a message: what is due must be asked for all the same
ENOUGH_COMPLETE = 2  # hypotheses of all that was said: another one of more quiet would say nothing new

request_ids = itertools.count()


class State(enum.Enum):
    WAITING_FOR_INIT = "waiting for init"
    STREAMING = "streaming"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True)
class SessionLimits:
    """What a session may take, and how often it speaks."""

    max_batch: int
    max_buffer_seconds: float
    interim_interval_seconds: float
    max_segment_seconds: float
    init_timeout_seconds: float
    idle_timeout_seconds: float
    close_timeout_seconds: float
    stable_agreement: int


class Session:
    """The protocol, the segmenter and the transcript of one stream.

    send: takes a message for the client; False for an interim that it dropped. submit: hands a request to the engine loop, whose
    result must come back through on_result(). finish: called once, after the last message; the transport closes its channel when
    that is flushed.
    """

    def __init__(self, stream_id: str, limits: SessionLimits, tokenizer: Tokenizer, send: Callable[[dict], bool | None],
                 submit: Callable[[Request], None], finish: Callable[[], None], now: float,
                 on_update: Callable[[float], None] = lambda late_seconds: None):  # fmt: skip
        """stream_id: this server's name for the stream; the client's own, `sid`, need not be unique.

        on_update: told of every answered update how long after it was due the engine began with it.
        """
        self.stream_id = stream_id
        self.sid = ""
        self._with_words = self._with_tail = False
        self._told = (0, 0)  # stable characters and segments that the client has been told, in messages that were not dropped
        self.state = State.WAITING_FOR_INIT
        self._limits = limits
        self._send, self._submit, self._finish, self._on_update = send, submit, finish, on_update
        self._segmenter = Segmenter(limits.max_segment_seconds)
        self._tokenizer = tokenizer
        self._transcript = Transcript(tokenizer, limits.stable_agreement)
        self._pending: Pending | None = None  # the one request under way
        self._complete = (0, 0)  # position behind a segment's last sound, and how many results have heard it and quiet behind it
        self._transcribed_until = 0  # position behind the newest sample that any result has covered
        self._last_heard_at = now  # when the client last sent anything
        self._last_interim_at = float("-inf")  # when the last interim was submitted
        self._due_at: float | None = None  # since when another one has been due, with a request under way
        self._closed_at: float | None = None
        self._seq = 0
        self._last_shown = ("", 0)  # text and stable, as last sent

    # What happens to a session

    def on_text(self, text: str, now: float) -> None:
        """A text message from the client."""
        if self.state is State.CLOSED:
            return
        self._last_heard_at = now
        try:
            match native.parse_text(text):
                case Init() as init:
                    self._init(init)
                case Close():
                    self._require_streaming("close")
                    self.close(now)
        except ProtocolError as exc:
            self.fail(exc.reason, exc.message)

    def on_audio(self, pcm: bytes, now: float) -> None:
        """A binary message from the client."""
        if self.state is State.CLOSED:
            return
        self._last_heard_at = now
        try:
            self._require_streaming("audio")
            native.check_audio(pcm)
        except ProtocolError as exc:
            self.fail(exc.reason, exc.message)
            return
        self._segmenter.append(pcm)
        waiting_seconds = (self._segmenter.end - self._transcribed_until) / SAMPLE_RATE
        if waiting_seconds > self._limits.max_buffer_seconds:
            self.fail(
                Reason.BUFFER_OVERFLOW,
                f"{waiting_seconds:.1f} s of audio wait to be transcribed; at most {self._limits.max_buffer_seconds:g} s may",
            )
            return
        self._advance(now)

    def on_result(self, result: Result, now: float) -> None:
        """The engine's answer to the pending request. Answers to requests that were replaced are ignored."""
        pending = self._pending
        if self.state is State.CLOSED or pending is None or result.request is not pending.request:
            return
        self._pending = None
        if result.error is not None:
            if not isinstance(result.error, RequestCancelled):
                self.fail(Reason.ENGINE_FAILED, f"the engine could not transcribe this stream: {result.error}")
            return
        self._transcribed_until = max(self._transcribed_until, pending.end)
        if self.state is State.STREAMING:
            self._on_update(pending.late_seconds + result.timings.queue_ms / 1000)
        if pending.cut is None:
            self._take_interim(result, pending, now)
        else:
            self._take_segment(result, pending, now)
        if self.state is not State.CLOSED:
            self._advance(now)

    @property
    def backlog_seconds(self) -> float:
        """Audio that waits to be transcribed; quiet behind what was is no backlog."""
        heard_until = max(self._transcribed_until, self._segmenter.start)
        if self.state is State.CLOSED or self._segmenter.loud_until <= heard_until:
            return 0.0
        return (self._segmenter.end - heard_until) / SAMPLE_RATE

    def on_time(self, now: float) -> None:
        """Called now and then, to notice what does not happen."""
        quiet_seconds = now - self._last_heard_at
        if self.state is State.WAITING_FOR_INIT and quiet_seconds > self._limits.init_timeout_seconds:
            self.fail(Reason.INIT_TIMEOUT, f"no init within {self._limits.init_timeout_seconds:g} s of connecting")
        elif self.state is State.STREAMING and quiet_seconds > self._limits.idle_timeout_seconds:
            self.fail(Reason.IDLE_TIMEOUT, f"nothing was sent for {self._limits.idle_timeout_seconds:g} s")
        elif self.state is State.CLOSING and now - self._closed_at > self._limits.close_timeout_seconds:
            self.fail(Reason.ENGINE_FAILED, f"no final within {self._limits.close_timeout_seconds:g} s of closing")
        elif self.state is State.STREAMING and quiet_seconds > AUDIO_STOPPED_SECONDS:
            self._advance(now)  # audio that comes does it by itself

    def close(self, now: float) -> None:
        """Transcribe what is left and send the final. Harmless when already closing."""
        if self.state is State.WAITING_FOR_INIT:
            self.fail(Reason.SHUTTING_DOWN, "the server is shutting down")
        elif self.state is State.STREAMING:
            self.state = State.CLOSING
            self._closed_at = now
            self._pending = None  # what is under way is asked for again, as a final: those go first
            self._advance(now)

    def fail(self, reason: Reason, message: str) -> None:
        """Tell the client what is wrong, with the text it may keep, and close."""
        if self.state is State.CLOSED:
            return
        kept = {}
        if self.state in (State.STREAMING, State.CLOSING):
            text = self._transcript.text[: self._transcript.stable]
            kept = {"sid": self.sid, "text": text, "audio_ms": milliseconds(self._segmenter.start)}
        error = native.error(reason, message, **kept)
        self._end(self._tail(error) if kept else error)

    def abandon(self) -> None:
        """The client is gone: nothing more is sent."""
        self.state = State.CLOSED

    # What a session does about it

    def _init(self, init: Init) -> None:
        if self.state is not State.WAITING_FOR_INIT:
            raise ProtocolError(Reason.ALREADY_INITIALISED, "init was sent twice; one channel carries one stream")
        self.sid, self._with_words, self._with_tail = init.sid, init.words, init.tail
        self.state = State.STREAMING
        self._send(native.ready(self.sid, self._limits.max_batch))

    def _require_streaming(self, what: str) -> None:
        if self.state is State.WAITING_FOR_INIT:
            raise ProtocolError(Reason.NOT_INITIALISED, f"{what} came before init")
        if self.state is State.CLOSING:
            raise ProtocolError(Reason.CLOSING, f"{what} came after close")

    def _advance(self, now: float) -> None:
        """Ask for the next thing worth asking for, if nothing is under way: a closed segment, the last one, an interim."""
        if self._pending is not None:
            if self._due_at is None and self.state is State.STREAMING and self._interim_is_due(now):
                self._due_at = now
            return
        segmenter, closing = self._segmenter, self.state is State.CLOSING
        if cut := segmenter.find_cut():
            self._request(cut.position, cut, Priority.FINAL if closing else Priority.INTERIM)
        elif closing and self._has_nothing_to_add():
            self._commit(self._transcript.draft, segmenter.end, None, NOTHING)
            self._send_final(now)
        elif closing and segmenter.end > segmenter.start:
            self._request(segmenter.end, Cut(segmenter.end, CutKind.END), Priority.FINAL)
        elif closing:
            self._send_final(now)
        elif not self._interim_is_due(now):
            self._due_at = None  # what was due has come with something else
        else:
            late_seconds = 0.0 if self._due_at is None else now - self._due_at
            self._due_at, self._last_interim_at = None, now
            self._request(segmenter.end, None, Priority.INTERIM, late_seconds=late_seconds)

    def _interim_is_due(self, now: float) -> bool:
        if not self._segmenter.has_sound or self._heard_it_all(ENOUGH_COMPLETE):
            return False
        new_samples = self._segmenter.end - max(self._transcribed_until, self._segmenter.start)
        interval_passed = now - self._last_interim_at >= self._limits.interim_interval_seconds
        return interval_passed and new_samples >= MIN_NEW_SECONDS * SAMPLE_RATE

    def _heard_it_all(self, times: int = 1) -> bool:
        """Have so many results heard everything that was said in the open segment, and quiet behind it?"""
        loud_until, results = self._complete
        return results >= times and loud_until == self._segmenter.loud_until

    def _has_nothing_to_add(self) -> bool:
        """Can the last hypothesis be the final one? What came since is short and quiet, and words need no times."""
        unheard = self._segmenter.end - self._transcribed_until
        if self._with_words or unheard > MAX_UNHEARD_SECONDS * SAMPLE_RATE:
            return False
        return self._heard_it_all() and self._segmenter.is_quiet_from(self._transcribed_until)

    def _request(self, end: int, cut: Cut | None, priority: Priority, recovers: bool = False, late_seconds: float = 0.0) -> None:
        loud_until = self._segmenter.loud_until
        unheard = end - max(self._transcribed_until, self._segmenter.start)
        request = Request(
            request_id=next(request_ids),
            stream_id=self.stream_id,
            clip=self._segmenter.clip(end),
            unheard_seconds=unheard / SAMPLE_RATE if cut is None and self._transcript.draft else None,
            recovers=recovers,
            draft=self._transcript.draft,
            forced=self._transcript.forced,
            priority=priority,
            end_bias=END_BIAS,
            align=cut is not None and (self._with_words or cut.kind is CutKind.LENGTH),
        )
        complete_at = loud_until if end - loud_until >= COMPLETE_SECONDS * SAMPLE_RATE else None
        self._pending = Pending(request, end, cut, complete_at, self._last_heard_at, late_seconds)
        try:
            self._submit(request)
        except EngineStopped as exc:
            self.fail(Reason.ENGINE_FAILED, str(exc))

    def _is_speech(self, result: Result) -> bool:
        """Is there anything in the result that the model believes itself? What was promised is kept regardless."""
        if result.request.forced:
            return True
        return bool(result.tokens) and is_speech(result.log_probs, self._tokenizer.text(result.tokens))

    def _take_interim(self, result: Result, pending: "Pending", now: float) -> None:
        heard = Hypothesis(result.tokens, result.log_probs) if self._is_speech(result) else NOTHING
        was_cut_short = result.looped or len(result.tokens) >= result.request.max_tokens
        is_whole = pending.complete_at is not None and not was_cut_short and not self._transcript.has_lost_sight(heard.tokens)
        self._transcript.update(heard, complete=is_whole)
        if is_whole:
            loud_until, results = self._complete
            self._complete = (pending.complete_at, results + 1 if loud_until == pending.complete_at else 1)
        self._show(pending, now)

    def _take_segment(self, result: Result, pending: "Pending", now: float) -> None:
        cut, tokens = pending.cut, result.tokens if self._is_speech(result) else ()
        if self._transcript.has_lost_sight(tokens) and not pending.request.recovers:
            self._transcript.keep_what_is_in_sight()
            self._request(pending.end, cut, pending.request.priority, recovers=True)
            return
        if tokens and cut.kind is CutKind.QUIET:
            # Words where nothing was loud: they may go on behind this cut, which was made for silence.
            self._segmenter.keep_open()
            self._take_interim(result, pending, now)
            return
        spoken = self._locate(tokens, result, cut.position) if tokens and result.first_frames else None
        position, rest, count = cut.position, NOTHING, len(spoken.begins) - 1 if spoken else 0
        if cut.kind is CutKind.LENGTH:
            position = self._segmenter.place(cut, spoken.between_words if spoken else ())
            count = spoken.words_before(position) if spoken else 0
            end = spoken.begins[count] if spoken else 0
            tokens, rest = tokens[:end], Hypothesis(tokens[end:], result.log_probs[end:])
        words = spoken.words(self._tokenizer, count, position) if spoken else ()
        self._commit(tokens, position, words if self._with_words else None, rest)
        self._show(pending, now)

    def _commit(self, tokens: Sequence[int], position: int, words: tuple[Word, ...] | None, rest: Hypothesis) -> None:
        """Close the open segment at a position with these tokens; the rest of the hypothesis belongs to the next one."""
        start_ms, end_ms = milliseconds(self._segmenter.start), milliseconds(position)
        self._transcript.commit(tokens, start_ms, end_ms, rest, words)
        self._segmenter.advance(position)
        self._complete = (0, 0)

    def _locate(self, tokens: Sequence[int], result: Result, end: int) -> Spoken:
        heard, pauses = self._segmenter.heard(end), self._segmenter.pauses(end)
        return locate(tokens, result.first_frames, self._tokenizer, heard, pauses)

    def _show(self, pending: "Pending", now: float) -> None:
        """Send an interim if it says anything new; behind a close the final does."""
        shown = (self._transcript.text, self._transcript.stable)
        if shown == self._last_shown or self.state is not State.STREAMING:
            return
        latency_ms = (now - pending.heard_at) * 1000
        message = native.interim(self.sid, self._seq, *shown, milliseconds(pending.end), latency_ms)
        if self._send(self._tail(message)) is False:
            return  # dropped: the next one says it too
        self._last_shown, self._told = shown, (self._transcript.stable, len(self._transcript.segments))
        self._seq += 1

    def _tail(self, message: dict) -> dict:
        """What of a message with text is new, where the client asked for no more."""
        if not self._with_tail:
            return message
        characters, segments = self._told
        return native.tail_of(message, characters, self._transcript.segments[segments:])

    def _send_final(self, now: float) -> None:
        transcript = self._transcript
        latency_ms = (now - self._closed_at) * 1000
        audio_ms = milliseconds(self._segmenter.end)
        message = native.final(self.sid, transcript.text, transcript.segments, audio_ms, latency_ms, self._with_words)
        self._end(self._tail(message))

    def _end(self, message: dict) -> None:
        self.state = State.CLOSED
        try:
            self._send(message)
        finally:
            self._finish()


@dataclass(frozen=True)
class Pending:
    """The request under way."""

    request: Request
    end: int
    """Position behind its last sample."""
    cut: Cut | None
    """The cut it closes a segment at; None for an interim."""
    complete_at: int | None
    """Position behind the last sound, if there is quiet enough behind it for the last word to be whole."""
    heard_at: float
    """When the newest sample known at its submission came in."""
    late_seconds: float
    """How long it had been due when it was submitted."""


def milliseconds(position: int) -> int:
    return position * 1000 // SAMPLE_RATE
