"""All sessions of this process, whatever transport they came by: opened, carried to the transcriber and back, timed, ended."""

import asyncio
import contextlib
import gc
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineStopped
from runtime.languages import language_of
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.transcriber import Status, Transcriber
from runtime.tokenizer import Tokenizer
from server.access import ANYONE, Caller
from server.apis.deepgram.messages import Asked, ServerMessage
from server.apis.deepgram.session import DeepgramSession
from server.apis.native import messages as native
from server.apis.native.messages import Message
from server.apis.native.session import Send, Session
from server.apis.openai.messages import ServerEvent
from server.apis.openai.session import RealtimeSession
from server.apis.openai.shapes import Present
from server.apis.whip.session import BroadcastSession
from server.apis.wyoming import messages as wyoming
from server.apis.wyoming.session import WyomingSession
from server.audio.input import AudioFormat
from server.errors import ClientError, Code, Refused, ServerError
from server.sessions.admission import Admission, Counts
from server.sessions.record import Record
from server.sessions.recording import Recording
from server.settings import Settings
from server.stream.events import Event
from server.stream.stream import Options, Stream
from server.telemetry.logs import log_fields
from server.telemetry.metrics import Api, Metrics
from server.telemetry.tracing import Tracing, no_tracing

logger = logging.getLogger(__name__)

BEHIND_SHARE = 0.5  # of the audio that may wait: then the client is held back
FAIR_MESSAGES = 16  # are taken at once; then all others get their turn
BASE64_CHARACTERS_A_SECOND = 64_000  # of PCM16 at OpenAI's 24 kHz
TICK_SECONDS = 0.1  # how often sessions are told that time passes
DEFECT = ServerError(Code.INTERNAL_ERROR, "the server met a defect of its own in this session; its log has the cause")

session_ids = itertools.count(1)


def nothing() -> None:
    """To do at a session's end."""


class Member(Protocol):
    """What takes a place among the sessions, whatever it is for."""

    @property
    def session_id(self) -> str: ...

    @property
    def backlog_seconds(self) -> float: ...

    def on_time(self, now: float) -> None: ...

    def finish(self, now: float) -> None: ...

    def fail(self, error: ServerError) -> None: ...

    def drop(self) -> None: ...


class Hearer(Member, Protocol):
    """One that live audio is for."""

    @property
    def waiting_seconds(self) -> float: ...

    def on_audio(self, pcm: bytes, now: float) -> None: ...

    def still_there(self, now: float) -> None: ...


AnySession = Session | RealtimeSession | DeepgramSession
"""One connection's, in its dialect."""


class Sessions:
    """Lives on the event loop's thread."""

    def __init__(
        self,
        transcriber: Transcriber,
        tokenizer: Tokenizer,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        tracing: Tracing = no_tracing,
    ):
        self._transcriber = transcriber
        self._tracing = tracing
        self._tokenizer = tokenizer
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._admission = Admission(
            transcriber,
            settings.access.session_limit,
            settings.access.max_sessions_per_address,
            settings.access.max_connecting_per_address,
        )
        metrics.sessions_max.set(settings.access.session_limit)
        metrics.draining.set(False)
        self._members: dict[str, Member] = {}
        self._records: dict[str, Record] = {}  # of the members
        self._waiting: set[str] = set()  # members that have not sent init: they have no place
        self._messages = 0  # that were waited behind
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_warm = asyncio.Event()
        self._uncounted_seconds = 0.0  # of audio, since metrics were last told
        self._has_ticked = asyncio.Event()
        self._engine_was = Status.STARTING
        self._background: asyncio.Task[None] | None = None
        self.on_defect: Callable[[], None] = lambda: None
        """Called when the tasks behind the sessions have ended on an error: the process serves nobody any more."""

    def start(self) -> None:
        """Start the transcriber and the clock; until_warm() says when sessions are taken."""
        self._loop = asyncio.get_running_loop()
        self._background = asyncio.create_task(self._run_background())

    async def _run_background(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._transcriber.run())
                tasks.create_task(self._tick())
        except Exception:
            logger.exception("a task that all sessions need has ended; the server stops")
            self._admission.shut()
            self.on_defect()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._take_time(self._clock())
            self._has_ticked.set()  # wakes all who wait now
            self._has_ticked.clear()

    def _take_time(self, now: float) -> None:
        if not self._is_warm.is_set() and self._transcriber.status() is Status.READY:
            gc.collect()
            gc.freeze()  # what start-up made is never garbage: full collections would walk it again and again
            self._is_warm.set()
            logger.info("warm; ready")
        self._look_after_engine()
        self._count_heard()
        self._metrics.ready.set(self.refusal() is None)
        self._metrics.backlog_seconds.set(self.backlog_seconds())
        for session in list(self._members.values()):
            self._guard(session, session.on_time, now)
        self._end_longest(now)

    def _end_longest(self, now: float) -> None:
        """Recordings have a limit of their own."""
        limit_seconds = self._settings.session.max_session_seconds
        if not limit_seconds:
            return
        for session in [each for each in self._members.values() if not isinstance(each, Recording)]:
            if now - self._records[session.session_id].opened_at > limit_seconds:
                self._guard(session, session.fail, ServerError(Code.SESSION_TOO_LONG, f"a session may last {limit_seconds:g} s"))

    def _look_after_engine(self) -> None:
        """What is on an engine that hangs is failed by name. Where it is lost for good the process ends, to be started again."""
        status = self._transcriber.status()
        if status is self._engine_was:
            return
        self._engine_was = status
        if status in (Status.HUNG, Status.FAILED):
            logger.error("the engine %s, and %d sessions with it", status.value, len(self._members))
            for session in list(self._members.values()):
                self._guard(
                    session, session.fail, ServerError(Code.ENGINE_FAILED, f"the engine has {status.value}; connect again")
                )
        if status is Status.FAILED:
            self.on_defect()

    async def until_warm(self) -> None:
        await self._is_warm.wait()

    # Health

    @property
    def alive(self) -> bool:
        """Is the engine? One that is being started again counts."""
        has_tasks = self._background is not None and not self._background.done()
        return has_tasks and self._transcriber.status() is not Status.FAILED

    def refusal(self) -> Refused | None:
        """What keeps a new session out."""
        return self._admission.refusal()

    def __len__(self) -> int:
        return len(self._members)

    def counts(self) -> Counts:
        return self._admission.counts()

    def backlog_seconds(self) -> float:
        """Of the session that has most audio waiting to be transcribed."""
        return max((session.backlog_seconds for session in self._members.values()), default=0.0)

    # Sessions

    def open(
        self,
        send: Send,
        on_end: Callable[[], None],
        api: Api = Api.WEBRTC,
        has_track: bool = False,
        caller: Caller = ANYONE,
    ) -> Session:
        """A new session, which takes its place with init. `send` gets its messages; `on_end` is called once after the last.

        has_track: its audio comes by an audio track. Raises Refused.
        """
        session_id = f"session-{next(session_ids)}"

        def say(message: Message) -> bool:
            if isinstance(message, native.Error):  # which may come before there is a stream to be observed
                self._records[session_id].ended = message.reason
            return send(message)

        session = Session(
            session_id,
            self._settings.session,
            native.Server(self._settings.batching.max_batch, self._settings.listen.replica_name),
            lambda say, options, now: self._begin_waited(session, say, options, now),
            say,
            lambda: self._end(session_id, api, on_end),
            self._clock(),
            has_track,
        )
        with self._counted_refusal():
            self._admission.begin_waiting(caller)
        self._waiting.add(session_id)
        self._keep(session, api, caller)
        return session

    def _begin_waited(self, session: Session, say: Callable[[Event], bool], options: Options, now: float) -> Stream:
        """It has said what it wants. Raises Refused."""
        session_id = session.session_id
        with self._counted_refusal():
            self._admission.take_place(self._records[session_id].caller)
        self._waiting.discard(session_id)
        self._admission.end_waiting(self._records[session_id].caller)
        self._open_stream(session, session_id)
        return self._begin_stream(session, session_id, say, options, now)

    def open_realtime(
        self,
        send: Callable[[ServerEvent], bool],
        on_end: Callable[[], None],
        configuration: object | None = None,
        has_track: bool = False,
        shape: Present | None = None,
        caller: Caller = ANYONE,
    ) -> RealtimeSession:
        """A session in OpenAI's Realtime dialect. Raises Refused, or ClientError for the configuration."""
        session_id = f"realtime-{next(session_ids)}"
        session = RealtimeSession(
            session_id,
            self._settings.session,
            self._settings.model.model_id,
            lambda stream_id, say, options, now: self._begin_named_stream(session, stream_id, say, options, now),
            send,
            lambda: self._end(session_id, Api.OPENAI_REALTIME, on_end),
            self._clock(),
            has_track,
        )
        self._admit(session, Api.OPENAI_REALTIME, caller)
        try:
            session.begin(configuration, shape)
        except ClientError:
            self._end(session_id, Api.OPENAI_REALTIME, nothing)
            raise
        return session

    def open_deepgram(
        self, asked: Asked, send: Callable[[ServerMessage], bool], on_end: Callable[[], None], caller: Caller = ANYONE
    ) -> DeepgramSession:
        """A session in Deepgram's dialect. Raises Refused."""
        session_id = f"deepgram-{next(session_ids)}"
        session = DeepgramSession(
            session_id,
            asked,
            self._settings.model.model_id,
            lambda say, options, now: self._begin_stream(session, session_id, say, options, now),
            send,
            lambda: self._end(session_id, Api.DEEPGRAM, on_end),
        )
        self._admit_with_stream(session, Api.DEEPGRAM, caller)
        session.begin(self._clock())
        return session

    def open_broadcast(self, on_end: Callable[[], None], caller: Caller = ANYONE) -> BroadcastSession:
        """A stream for whoever reads it. Raises Refused."""
        session_id = f"broadcast-{uuid.uuid4()}"  # readers tell one from the next, whichever process it was in
        session = BroadcastSession(
            session_id,
            self._settings.session,
            lambda say, options, now: self._begin_stream(session, session_id, say, options, now),
            lambda: self._end(session_id, Api.WHIP, on_end),
        )
        self._admit_with_stream(session, Api.WHIP, caller)
        session.begin(self._clock())
        return session

    def open_wyoming(
        self, audio_format: AudioFormat, send: Callable[[wyoming.ServerMessage], bool], on_end: Callable[[], None]
    ) -> WyomingSession:
        """An utterance in the Wyoming protocol. Raises Refused."""
        session_id = f"wyoming-{next(session_ids)}"
        session = WyomingSession(
            session_id,
            audio_format,
            self._settings.session,
            language_of(self._settings.model.model_id).code,
            lambda say, options, now: self._begin_stream(session, session_id, say, options, now),
            send,
            lambda: self._end(session_id, Api.WYOMING, on_end),
        )
        self._admit_with_stream(session, Api.WYOMING, ANYONE)
        session.begin(self._clock())
        return session

    def open_recording(self, api: Api, caller: Caller = ANYONE) -> Recording:
        """A place for a whole recording; drop() gives it back. Raises Refused."""
        session_id = f"recording-{next(session_ids)}"
        recording = Recording(
            session_id,
            lambda stream_id, pcm, say, options: self._begin_stretch(recording, stream_id, pcm, say, options),
            lambda: self._end(session_id, api, nothing),
        )
        self._admit(recording, api, caller)
        return recording

    def _admit(self, session: Member, api: Api, caller: Caller) -> None:
        """Raises Refused."""
        with self._counted_refusal():
            self._admission.take_place(caller)
        self._keep(session, api, caller)

    def _keep(self, session: Member, api: Api, caller: Caller) -> None:
        """Until _end()."""
        self._members[session.session_id] = session
        self._records[session.session_id] = Record(
            session.session_id, api.value, caller, self._clock(), trace=self._tracing(session.session_id, api.value)
        )
        self._is_empty.clear()
        self._metrics.sessions_total.labels(api).inc()
        self._metrics.sessions.labels(api).inc()

    @contextlib.contextmanager
    def _counted_refusal(self) -> Iterator[None]:
        try:
            yield
        except Refused as refused:
            self._metrics.refused_total.labels(refused.code.value).inc()
            raise

    def _admit_with_stream(self, session: Member, api: Api, caller: Caller) -> None:
        """Of a session that has one stream from its beginning to its end. Raises Refused."""
        self._admit(session, api, caller)
        try:
            self._open_stream(session, session.session_id)
        except Refused:
            self._end(session.session_id, api, nothing)
            raise

    def _end(self, session_id: str, api: Api, on_end: Callable[[], None]) -> None:
        if self._members.pop(session_id, None) is None:
            return
        self._transcriber.close_stream(session_id)  # harmless for one that has none of this name
        self._count_heard()
        record = self._records.pop(session_id)
        caller = record.caller
        fields = record.fields(self._clock(), self._settings.telemetry.log_text)
        log_fields(logger, "a session has ended", fields)
        record.trace.end(fields, record.error)
        if session_id in self._waiting:
            self._waiting.discard(session_id)
            self._admission.end_waiting(caller)
        else:
            self._admission.free_place(caller)
        self._metrics.sessions.labels(api).dec()
        if not self._members:
            self._is_empty.set()
        on_end()

    def text(self, session: AnySession, text: str) -> None:
        self._take_pace(session, len(text) / BASE64_CHARACTERS_A_SECOND)  # it may be audio
        self._guard(session, session.on_text, text, self._clock())

    def audio(self, session: Hearer, pcm: bytes) -> None:
        now, record = self._clock(), self._records.get(session.session_id)
        if record is not None:
            record.pace.take(self._count_audio(record, pcm), now)
        self._guard(session, session.on_audio, pcm, now)

    def piece(self, session: Member) -> None:
        """A piece of a container has come; its audio is counted when it is decoded."""
        self._take_pace(session, 0.0)

    def _take_pace(self, session: Member, audio_seconds: float) -> None:
        if record := self._records.get(session.session_id):
            record.pace.take(audio_seconds, self._clock())

    def _count_audio(self, record: Record, pcm: bytes) -> float:
        """Returns how many seconds it is."""
        seconds = len(pcm) / 2 / SAMPLE_RATE
        self._uncounted_seconds += seconds
        record.audio_seconds += seconds
        return seconds

    def _count_heard(self) -> None:
        """All sessions' audio at once: where processes share their counts, each one takes as long as the rest of a frame."""
        self._metrics.audio_seconds_total.inc(self._uncounted_seconds)
        self._uncounted_seconds = 0.0

    def finish(self, session: Member) -> None:
        """The client has said its last: it gets its final."""
        self._guard(session, session.finish, self._clock())

    async def until_tick(self) -> None:
        """Until sessions have next been told the time."""
        await self._has_ticked.wait()

    async def until_heard(self, session: Hearer) -> None:
        """Backpressure: returns once the session is not behind, or has ended."""
        self._messages += 1
        if self._messages % FAIR_MESSAGES == 0:
            await asyncio.sleep(0)
        await self.until_waiting(session, BEHIND_SHARE)

    async def until_waiting(self, session: Hearer, share: float) -> None:
        """Until no more than this share of what may wait does. Who is held back meanwhile is not idle."""
        while self._share_waiting(session) > share:
            await self.until_tick()
            session.still_there(self._clock())

    def is_behind(self, session: Hearer) -> bool:
        return self._share_waiting(session) > BEHIND_SHARE

    def _share_waiting(self, session: Hearer) -> float:
        """Of the audio that may wait to be transcribed, how much does; or how far the client is ahead of its pace."""
        record = self._records.get(session.session_id)
        if record is None:
            return 0.0
        waiting = session.waiting_seconds / self._settings.session.max_buffer_seconds
        return max(waiting, BEHIND_SHARE * record.pace.share(self._clock()))

    def leave(self, session: Member) -> None:
        """The client has gone without a word. Harmless for a session that has ended."""
        session.drop()

    def _guard(self, session: Member, function: Callable[..., None], *arguments: object) -> None:
        """A defect met by one session ends that session, by name, and no other."""
        try:
            function(*arguments)
        except Exception:
            logger.exception("%s met a defect and is ended", session.session_id)
            with contextlib.suppress(Exception):  # the defect may be in the way of telling it, too
                session.fail(DEFECT)
            session.drop()

    # Streams

    def _open_stream(self, session: Member, stream_id: str) -> None:
        """Raises Refused."""
        with self._counted_refusal():
            try:
                self._transcriber.open_stream(stream_id, lambda message: self._call_soon(self._lose, session, message))
            except EngineStopped as exc:
                raise Refused(Code.ENGINE_FAILED, str(exc)) from exc

    def _begin_stretch(
        self, recording: Recording, stream_id: str, pcm: bytes, say: Callable[[Event], bool], options: Options
    ) -> Callable[[], None]:
        stream, end = self._begin_named_stream(recording, stream_id, say, options, self._clock())
        self._count_audio(self._records[recording.session_id], pcm)
        self._guard(recording, stream.hear_all, pcm, self._clock())
        return end

    def _begin_named_stream(
        self, session: Member, stream_id: str, say: Callable[[Event], bool], options: Options, now: float
    ) -> tuple[Stream, Callable[[], None]]:
        """One of several of a session, and what ends it. Raises Refused."""
        self._open_stream(session, stream_id)
        stream = self._begin_stream(session, stream_id, say, options, now)

        def end() -> None:
            stream.drop()
            self._transcriber.close_stream(stream_id)

        return stream, end

    def _begin_stream(
        self, session: Member, stream_id: str, say: Callable[[Event], bool], options: Options, now: float
    ) -> Stream:
        record = self._records[session.session_id]
        record.trace.connected()

        def say_and_note(event: Event) -> bool:
            record.observe(event)
            return say(event)

        stream: Stream = Stream(
            stream_id,
            self._settings.session,
            self._tokenizer,
            say_and_note,
            lambda request: self._submit(session, stream, request),
            now,
            options,
            self._observe_update,
        )
        return stream

    def _observe_update(self, late_seconds: float) -> None:
        self._metrics.update_late.observe(late_seconds / self._settings.session.interim_interval_seconds)

    def _submit(self, session: Member, stream: Stream, request: Request) -> None:
        self._transcriber.submit(request, lambda result: self._call_soon(self._deliver, session, stream, result))

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        """From any thread. Harmless behind the event loop's end."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _deliver(self, session: Member, stream: Stream, result: Result) -> None:
        self._guard(session, stream.on_result, result, self._clock())

    def _lose(self, session: Member, message: str) -> None:
        """The engine that the session's stream was on is gone."""
        self._guard(session, session.fail, ServerError(Code.ENGINE_FAILED, message))

    # The end

    async def shut_down(self, timeout_seconds: float) -> None:
        """Take no new sessions, give the open ones their finals, stop the engine."""
        await self.finish_all(timeout_seconds)
        if self._background is not None:
            self._background.cancel()
        await asyncio.to_thread(self._transcriber.stop)

    async def drain(self, seconds: float) -> None:
        """Take no new sessions, and let the open ones go on for so long at most; those that asked for it are told."""
        if not seconds:
            return
        self._shut()
        logger.info("draining: %d sessions may go on for %g s", len(self._members), seconds)
        for session in list(self._members.values()):
            if isinstance(session, Session):
                self._guard(session, session.move, seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), seconds)

    def _shut(self) -> None:
        self._admission.shut()
        self._metrics.ready.set(False)
        self._metrics.draining.set(True)

    async def finish_all(self, timeout_seconds: float) -> None:
        """Take no new sessions, and give the open ones their finals."""
        self._shut()
        if self._members:
            logger.info("shutting down: %d sessions get their finals", len(self._members))
        for session in list(self._members.values()):
            self._guard(session, session.finish, self._clock())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), timeout_seconds)
        for session in list(self._members.values()):
            self._guard(
                session, session.fail, ServerError(Code.SHUTTING_DOWN, "the server is shutting down and could not finish in time")
            )
