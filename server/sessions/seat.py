"""The seat of one session: its caller, its cost, its streams, and the reason of its end.

A transport passes the messages of its client to the seat. The seat counts them, passes them to the session, and contains the
session's defects. A session opens streams through its seat, and ends it once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineStopped
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.transcriber import Transcriber
from runtime.tokenizer import Tokenizer
from runtime.turns.worker import TurnWorker
from server.access import Caller
from server.errors import Code, Refused, ServerError
from server.sessions.admission import Admission
from server.sessions.rate_limit import RateLimit
from server.sessions.record import Record, error_of
from server.sessions.session import Session
from server.settings import Settings
from server.stream.events import Event
from server.stream.stream import Options, Stream
from server.telemetry.logs import log_fields
from server.telemetry.metrics import Api, Metrics
from server.telemetry.tracing import Trace

logger = logging.getLogger(__name__)

BEHIND_SHARE = 0.5  # share of the audio that may wait; above it the client is held back
FAIR_MESSAGES = 16  # messages that are taken at once; then all other clients get their turn
UNCOUNTED_MESSAGES = FAIR_MESSAGES  # most messages before they are counted, and the client held back
UNCOUNTED_BYTES = 2 * SAMPLE_RATE  # most audio, likewise
UNCOUNTED_CHARACTERS = 64 * 1024  # most text, likewise
DEFECT = ServerError(Code.INTERNAL_ERROR, "the server met a defect of its own in this session; its log has the cause")


@dataclass
class Shared:
    """Objects that all seats of a process share."""

    transcriber: Transcriber
    tokenizer: Tokenizer
    settings: Settings
    metrics: Metrics
    admission: Admission
    clock: Callable[[], float]
    loop: asyncio.AbstractEventLoop | None = None
    """Set when the sessions start."""
    turn_worker: TurnWorker | None = None
    """Judges pauses by their sound; None if there is no turn model."""
    ticked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set for a moment with each tick of the sessions' clock."""

    @property
    def evidence_of_turns(self) -> str:
        return "silence, text" if self.turn_worker is None else "silence, text, sound"

    def call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop's thread, from any thread. Harmless after the loop's end."""
        with contextlib.suppress(RuntimeError):
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function, *arguments)


@dataclass(slots=True)
class Uncounted:
    """Audio and messages of a client that are not yet in its record, the metrics and its rate."""

    messages: int = 0
    characters: int = 0
    audio_bytes: int = 0
    changes: int = 0

    @property
    def is_little(self) -> bool:
        """True if it may wait for the next tick."""
        return (
            self.messages < UNCOUNTED_MESSAGES
            and self.audio_bytes < UNCOUNTED_BYTES
            and self.characters < UNCOUNTED_CHARACTERS
            and not self.changes
        )


NOTHING_CAME = Uncounted()


class Seat:
    """Used on the event loop's thread only."""

    def __init__(
        self,
        session_id: str,
        api: Api,
        caller: Caller,
        shared: Shared,
        trace: Trace,
        on_end: Callable[["Seat"], None],
        places: int,
    ):
        """Make a seat. places: number of places from admission; if 0, admission counts it as a connection that waits.

        on_end: called once, after everything else.
        """
        self.session_id, self.api = session_id, api
        self.opened_at = shared.clock()
        self._caller, self._shared, self._on_end = caller, shared, on_end
        self._record = Record(session_id, api.value, caller, self.opened_at, trace=trace)
        self._rate = RateLimit(self.opened_at)
        self._streams: dict[str, Stream] = {}
        self._streams_opened = 0
        self._uncounted = Uncounted()
        self._is_to_look = False  # whether is_behind must check: a tick has counted since its last check
        self._taken = 0  # number of messages that a task has read
        self._places, self._has_ended = places, False
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        assert self._session is not None, "a session is made for every seat before anything else happens to it"
        return self._session

    @property
    def evidence_of_turns(self) -> str:
        """Evidence by which ends of turns are judged."""
        return self._shared.evidence_of_turns

    @property
    def frame_ms(self) -> int:
        """Milliseconds of audio that a message should carry, at the present load of this process."""
        return self._shared.admission.frame_ms

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def identify(self, caller: Caller) -> None:
        """Set the caller of a session that has taken no place yet."""
        if self._caller.is_identified:
            return
        assert not self._places, "a place is counted for its caller"
        self._caller = self._record.caller = caller
        self._shared.metrics.session_identified(self.api, caller.name)

    # Methods for the session

    def attach(self, session: Session) -> None:
        self._session = session

    def take_places(self, count: int = 1) -> None:
        """Take places until the seat has `count` of them. Raises Refused."""
        if self._places >= count or self._has_ended:
            return
        with self._shared.metrics.counting_refusals():
            self._shared.admission.take_places(self._caller, count - self._places)
        if not self._places:
            self._shared.admission.end_waiting(self._caller)
        self._places = count

    def open_stream(self, say: Callable[[Event], bool], options: Options, now: float) -> Stream:
        """Begin a stream, and take the place that it needs. Raises Refused."""
        self.take_places()
        self._streams_opened += 1
        stream_id = self.session_id if self._streams_opened == 1 else f"{self.session_id}.{self._streams_opened}"
        with self._shared.metrics.counting_refusals():
            self._open_in_transcriber(stream_id)
        self._record.trace.connected()
        opened: Stream = Stream(
            stream_id,
            self._shared.settings.session,
            self._shared.tokenizer,
            lambda event: self._observe(stream_id, event, say),
            lambda request: self._submit(opened, request),
            now,
            options,
            self._observe_update,
            self._shared.transcriber.encodes_streams,
            self._judge,
        )
        self._streams[stream_id] = opened
        return opened

    def transcribe_all(self, pcm: bytes, say: Callable[[Event], bool], options: Options) -> Stream:
        """Begin a stream that receives all of its audio at once: PCM16 mono at 16 kHz. Raises Refused."""
        opened = self.open_stream(say, options, self._shared.clock())
        self.count_audio(pcm)
        self._guard(opened.receive_all, pcm, self._shared.clock())
        return opened

    def _open_in_transcriber(self, stream_id: str) -> None:
        try:
            self._shared.transcriber.open_stream(stream_id, lambda message: self._shared.call_soon(self._lose_engine, message))
        except EngineStopped as exc:
            raise Refused(Code.ENGINE_FAILED, str(exc)) from exc

    def close_stream(self, closed: Stream) -> None:
        """Drop a stream, which sends no more events, and cancel its requests."""
        closed.drop()
        if self._streams.pop(closed.stream_id, None) is not None:
            self._shared.transcriber.close_stream(closed.stream_id)

    def count_audio(self, pcm: bytes) -> None:
        """Count audio that a stream receives, as PCM16 mono at 16 kHz."""
        self._uncounted.audio_bytes += len(pcm)

    def count_change(self) -> None:
        """Count a change of the streams' options."""
        self._uncounted.changes += 1

    def _count(self, now: float) -> None:
        """Add the messages and audio since the last call to the record, the metrics and the client's rate."""
        came, self._uncounted = self._uncounted, Uncounted()
        if came == NOTHING_CAME:
            return
        audio_seconds = came.audio_bytes / 2 / SAMPLE_RATE
        self._record.audio_seconds += audio_seconds
        self._shared.metrics.count_audio(audio_seconds, self._caller.name)
        self._rate.count(now, came.messages, audio_seconds, came.characters, came.changes)

    def end(self, reason: str) -> None:
        """Close the streams, free the places, and report the reason once: in the log, the trace and the metrics.

        reason: FINISHED, LEFT or the code of an error.
        """
        if self._has_ended:
            return
        self._has_ended = True
        self._count(self._shared.clock())
        for each in list(self._streams.values()):
            self.close_stream(each)
        if self._places:
            self._shared.admission.free_places(self._caller, self._places)
        else:
            self._shared.admission.end_waiting(self._caller)
        self._report(reason)
        self._on_end(self)

    def _report(self, reason: str) -> None:
        fields = self._record.fields(reason, self._shared.clock(), self._shared.settings.telemetry.log_text)
        log_fields(logger, "a session has ended", fields)
        self._record.trace.end(fields, error_of(reason))
        self._shared.metrics.session_ended(self.api, error_of(reason))

    # Methods for the transport

    def receive_text(self, text: str) -> None:
        self._uncounted.messages += 1
        self._uncounted.characters += len(text)
        self._guard(self.session.on_text, text, self._shared.clock())

    def receive_audio(self, audio: bytes) -> None:
        """Take audio as the client sends it; the session's input knows the format."""
        self._uncounted.messages += 1
        self._guard(self.session.on_audio, audio, self._shared.clock())

    def receive_piece(self) -> None:
        """Count a piece of a container; its audio follows when it is decoded."""
        self._uncounted.messages += 1

    def finish(self) -> None:
        """End the client's audio: it gets its final."""
        self._guard(self.session.finish, self._shared.clock())

    def move_on(self) -> None:
        """End the audio because the server ends: the client gets its final, and its speaker may go on elsewhere."""
        self._guard(self.session.finish, self._shared.clock(), True)

    def fail(self, error: ServerError) -> None:
        """End the session with an error that is sent to its client."""
        self._guard(self.session.fail, error)

    def finish_with(self, error: ServerError) -> None:
        """End the session with its final, and with an error that does not affect the audio before it."""
        self._guard(self.session.finish_with, error, self._shared.clock())

    def fail_soon(self, error: ServerError) -> None:
        """Fail later, not while another message is being sent: failing sends one more."""
        asyncio.get_running_loop().call_soon(self.fail, error)

    def leave(self) -> None:
        """Handle a client that has left without notice. Does nothing if the session has ended."""
        self._guard(self.session.leave, self._shared.clock())

    # Methods for the registry

    @property
    def is_taken(self) -> bool:
        """True if it has a session."""
        return self._session is not None

    def on_time(self, now: float) -> None:
        if self._session is None:
            self.end(Code.INTERNAL_ERROR)  # its session could not be made
        else:
            self._count(now)
            self._is_to_look = True
            self._guard(self._session.on_time, now)

    def move(self, seconds: float) -> None:
        self._guard(self.session.move, seconds)

    # Backpressure

    @property
    def backlog_seconds(self) -> float:
        """Seconds of audio that wait to be transcribed, of the stream with the most."""
        return max((each.backlog_seconds for each in self._streams.values()), default=0.0)

    @property
    def is_behind(self) -> bool:
        """True if the client is to be held back. Checked after some messages, or a second of audio, and at every tick."""
        if not self._is_to_look and self._uncounted.is_little:
            return False
        self._is_to_look = False
        self._count(self._shared.clock())
        return self._share_waiting() > BEHIND_SHARE

    async def until_ready(self) -> None:
        """Wait until the session is not behind, or has ended."""
        self._taken += 1
        if self._taken % FAIR_MESSAGES == 0:
            await asyncio.sleep(0)
        if self.is_behind:
            await self.until_waiting(BEHIND_SHARE)

    async def until_waiting(self, share: float) -> None:
        """Wait until at most this share of the allowed audio is waiting. A client that is held back meanwhile is not idle."""
        while self._share_waiting() > share:
            await self._shared.ticked.wait()
            self.session.reset_idle(self._shared.clock())

    def _share_waiting(self) -> float:
        """Return the waiting audio as a share of what may wait, or the client's rate on the same scale, whichever is more."""
        if self._has_ended:
            return 0.0
        waiting_seconds = max((each.waiting_seconds for each in self._streams.values()), default=0.0)
        share = waiting_seconds / self._shared.settings.session.max_buffer_seconds
        return max(share, BEHIND_SHARE * self._rate.share(self._shared.clock()))

    # Its streams

    def _observe(self, stream_id: str, event: Event, say: Callable[[Event], bool]) -> bool:
        self._record.observe(stream_id, event)
        return say(event)

    def _observe_update(self, late_seconds: float) -> None:
        interval_seconds = self._shared.settings.session.interim_interval_seconds
        self._shared.metrics.update_late.observe(late_seconds / interval_seconds)

    def _submit(self, asking: Stream, request: Request) -> None:
        self._shared.transcriber.submit(request, lambda result: self._shared.call_soon(self._deliver, asking, result))

    def _judge(self, samples: np.ndarray, answer: Callable[[float], None]) -> None:
        if self._shared.turn_worker is not None:
            self._shared.turn_worker.submit(samples, lambda probability: self._shared.call_soon(self._guard, answer, probability))

    def _deliver(self, asking: Stream, result: Result) -> None:
        self._guard(asking.on_result, result, self._shared.clock())

    def _lose_engine(self, message: str) -> None:
        self.fail(ServerError(Code.ENGINE_FAILED, message))

    def _guard(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function of the session. A defect is logged with the session's name and ends only this session."""
        try:
            function(*arguments)
        except Exception:
            logger.exception("%s met a defect and is ended", self.session_id)
            with contextlib.suppress(Exception):  # the defect may also prevent the message about it
                self.session.fail(DEFECT)
            self.end(Code.INTERNAL_ERROR)
            self.session.drop()
