"""The asyncio client: it sends one stream of audio to a server and returns its words, even if a connection is lost.

async with StreamingClient("localhost:8000") as client:
    await client.send(pcm)          # PCM16 mono at 16 kHz, whenever there is some
    async for interim in client:    # or from another task
        print(interim["text"])
    final = await client.close()
"""

import asyncio
import collections
import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np

from moonshine_client.errors import StreamError
from moonshine_client.interims import Interims
from moonshine_client.resend_buffer import FRAME_MS, SAMPLE_RATE, ResendBuffer
from moonshine_client.sending import Rest
from moonshine_client.transcripts import ChannelTranscripts, Message
from moonshine_client.transports import HIGH_MARK_BYTES, DataChannel, Socket, Transport, authorization, reason_of

CONNECT_SECONDS = 15.0
REFUSED_SECONDS = 10.0  # for a server that is full, or is starting
AT_ONCE_SECONDS = 0.1
RESUME_SECONDS = 30.0
WEBRTC_SECONDS = 5.0  # for a data channel; then a WebSocket is tried
SILENT_SECONDS = 4.0  # without a message from a server that sends pulses: it is lost
LOOK_SECONDS = 0.25
MOST_BYTES = 2 * SAMPLE_RATE  # of audio in one message
MOST_AHEAD_SECONDS = 60.0  # half of the audio that a server lets wait by default
HELD_SECONDS = 120.0  # audio that is kept while there is no session
SOONEST_SECONDS, LATEST_SECONDS = 0.25, 5.0  # time between two attempts to go on
MOST_VAIN = 5  # sessions in a row that closed nothing: it would go on for ever
PASSING = {
    "connection_lost",
    "engine_failed",
    "shutting_down",
    "internal_error",
    "server_full",
    "warming_up",
    "too_many_sessions",
    "rate_limit_exceeded",
    "connect_timeout",
    "bad_answer",
}
"""Reasons after which another session may succeed."""


ASKED_ALWAYS = {"tail": True, "pulse": True, "moving": True}  # fields of every init
Keyterm = str | Mapping[str, str | float]
"""A text, or one with a boost: {"term": text, "boost": number}."""


class StreamOptions(TypedDict, total=False):
    """Options of a stream, with the names that the server uses."""

    channels: int
    """Number of interleaved channels. Each is transcribed separately, and its messages name it."""
    numerals: bool
    """True: numbers are written in digits."""
    redact: Sequence[str]
    """Kinds of secrets that are replaced by their names: pci, ssn, numbers, aggressive_numbers, email."""
    profanity_filter: bool
    """True: profane words are written in asterisks."""
    filler_words: bool
    """False: uh and um are left out."""
    replace: Mapping[str, str]
    """Words and phrases, and the text that replaces them."""


class ClientSession:
    """One connection to one server, from its init to its last message."""

    def __init__(self, on_message: Callable[["ClientSession", Message], None]):
        self._on_message = on_message
        self._is_ready = asyncio.Event()
        self._heard_at = time.monotonic()
        self._says_pulse = False
        self.wire: Transport | None = None
        self.ready: Message = {}
        self.has_closed = False
        """True if the client has reported the end of the audio."""
        self.keyterms: Sequence[Keyterm] = ()
        """Keyterms that the server knows."""
        self.end: asyncio.Future[StreamError] = asyncio.get_running_loop().create_future()
        """Reason why the session has ended."""

    @property
    def speaks(self) -> bool:
        """True if the server has sent anything recently. One that sends pulses sends something every second."""
        return time.monotonic() - self._heard_at < SILENT_SECONDS / 2

    def take(self, text: str) -> None:
        message = json.loads(text)
        self._heard_at = time.monotonic()
        self._says_pulse |= message["op"] == "pulse"
        if message["op"] == "ready":
            self.ready = message
            self._is_ready.set()
        else:
            self._on_message(self, message)

    def lacks(self, keyterms: Sequence[Keyterm]) -> bool:
        """True if these keyterms must still be sent to the server."""
        return self.keyterms is not keyterms and not self.has_closed

    def send_keyterms(self, wire: Transport, keyterms: Sequence[Keyterm]) -> bool:
        """Replace the keyterms; False if the connection is closing."""
        self.keyterms = keyterms
        return wire.send(json.dumps({"op": "keyterms", "keyterms": keyterms}, ensure_ascii=False))

    def lose(self) -> None:
        self.stop(StreamError("connection_lost", "the connection was lost before the final"))

    def stop(self, error: StreamError) -> None:
        if not self.end.done():
            self.end.set_result(error)

    async def begin(self, wire: Transport, take_over: Callable[[], Message]) -> None:
        """Connect and wait for the server's first message. Raises StreamError, OSError.

        take_over: called when the connection is there; returns the init.
        """
        self.wire = wire
        await wire.open()
        wire.send(json.dumps(take_over(), ensure_ascii=False))
        ready: asyncio.Future[Any] = asyncio.ensure_future(self._is_ready.wait())
        try:
            await asyncio.wait([ready, self.end], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self.end.done():
            raise self.end.result()

    async def watch(self) -> StreamError:
        """Watch the session until it ends. ICE would notice only after half a minute that the server is gone."""
        while not self.end.done():
            await asyncio.wait([self.end], timeout=LOOK_SECONDS)
            if self._says_pulse and time.monotonic() - self._heard_at > SILENT_SECONDS:
                self.lose()
        return self.end.result()


@dataclass
class FlushRequest:
    """A flush that was requested and is not done yet."""

    position: int
    """Bytes of audio before it."""
    flushed: asyncio.Future[Message]
    session: ClientSession | None = None
    """Session to which the request was sent."""


class StreamingClient:
    """One stream. Entering it connects; close() returns the final; leaving it always disconnects.

    If a session is lost, another one begins, on this server or the next, with the audio since the last closed segment: no word is
    lost or repeated, and times go on. Stable text of the segment that was open may come back a little different.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        path: str = "/webrtc",
        sid: str | None = None,
        words: bool = False,
        keyterms: Sequence[Keyterm] = (),
        max_interims: int | None = 1,
        key: str | None = None,
        transport: str = "auto",
        resume_seconds: float = RESUME_SECONDS,
        refused_seconds: float = REFUSED_SECONDS,
        on_trouble: Callable[[str], None] = lambda trouble: None,
        frame_ms: int | None = None,
        **options: Unpack[StreamOptions],
    ):
        """server: HOST:PORT or a URL; of several, the next one is tried if one fails. path: the path for WebRTC offers.

        words: ask for the times of words, in the final and its segments. keyterms: words and phrases that are expected, each a
        text or {"term": text, "boost": 3.0}. max_interims: how many interims of a channel wait to be read; of more, the oldest
        are dropped, because a newer one contains all that an older one does; None: all are kept. key: an API key of the server;
        without one, ASR_API_KEY of the environment. transport: "webrtc", "websocket", or "auto": the second if the first fails.
        resume_seconds: how long to try to go on if a session is lost; 0: not at all. refused_seconds: how long to try to connect
        to a server that is full or not ready; 0: once. on_trouble: called with problems meanwhile. frame_ms: milliseconds of
        audio that a message waits for; None: as many as the server asks for; 0: none.
        """
        servers = [server] if isinstance(server, str) else server
        self._servers = itertools.cycle([(each if "://" in each else f"http://{each}").rstrip("/") for each in servers])
        self._url = next(self._servers)
        self._path, self._transport, self._headers = path, transport, authorization(key)
        self._resume_seconds, self._refused_seconds, self._on_trouble = resume_seconds, refused_seconds, on_trouble
        self.sid = sid or str(uuid.uuid4())
        self._init = {"op": "init", "sid": self.sid, "sr": SAMPLE_RATE, "words": words, **ASKED_ALWAYS, **options}
        channels = options.get("channels", 1)
        self._told, self._audio = ChannelTranscripts(words, channels), ResendBuffer(channels)
        self._sent, self._keyterms = 0, list(keyterms)
        self._session: ClientSession | None = None
        self._goes_on = asyncio.Event()  # the session accepts audio, or there will be none
        self._sending = asyncio.Lock()
        self._rest = Rest(self._pump, self._start, frame_ms)
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving: asyncio.Task[None] | None = None
        self._is_closing = False
        self._flushes: collections.deque[FlushRequest] = collections.deque()
        self._interims = Interims(max_interims)
        self._last_words: Message | None = None  # a final that was not requested: the server has ended the session
        self._outcome: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    @property
    def ready(self) -> Message:
        """The server's first message."""
        return self._session.ready if self._session else {}

    async def __aenter__(self) -> "StreamingClient":
        """Raises StreamError if the server refuses, OSError (TimeoutError is one) if it cannot be reached."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connect()
        except TimeoutError as exc:
            raise TimeoutError(f"no stream from {self._url}{self._path} within {CONNECT_SECONDS:g} s") from exc
        except StreamError as refused:
            if not await self._go_on(refused, self._refused_seconds):
                raise
        except OSError as exc:  # another server may run on the same port as one that has just died
            if not await self._go_on(StreamError("connection_lost", str(exc)), min(AT_ONCE_SECONDS, self._refused_seconds)):
                raise
        self._start(self._keep_going())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None and self._session.wire is not None:
            await self._session.wire.close()

    def _start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # To the server

    async def send(self, pcm: bytes) -> Message | None:
        """Send audio; waits while too much is unsent.

        Returns the final if the server has ended the stream, as it does when it shuts down, and no other session was possible:
        audio is no longer accepted. Raises StreamError if the stream has failed.
        """
        if not self._outcome.done():
            self._audio.append(pcm)
            unsent_ms = self._audio.milliseconds(self._audio.end - self._sent)
            await self._rest.send(unsent_ms, self.ready.get("frame_ms", 0))
        return await self.outcome() if self._outcome.done() else None

    async def flush(self) -> Message:
        """Finish the text up to here, which will not change, and go on; returns the message with it. Raises StreamError."""
        flush = FlushRequest(self._audio.end, asyncio.get_running_loop().create_future())
        self._flushes.append(flush)
        await self._pump()
        await asyncio.wait({flush.flushed, self._outcome}, return_when=asyncio.FIRST_COMPLETED)
        return flush.flushed.result() if flush.flushed.done() else await self.outcome()

    async def set_keyterms(self, keyterms: Sequence[Keyterm]) -> None:
        """Expect these words and phrases from now on, instead of those before."""
        self._keyterms = list(keyterms)
        await self._pump()

    async def close(self) -> Message:
        """Report the end of the audio and wait for the final. Raises StreamError."""
        self._is_closing = True
        await self._pump()
        return await self.outcome()

    async def outcome(self) -> Message:
        """Wait for the final without requesting it. Raises StreamError."""
        return checked(await asyncio.shield(self._outcome))

    async def _pump(self) -> None:
        """Send everything that is unsent. Without a session, some audio is kept, and more makes the sender wait."""
        self._rest.cancel()
        async with self._sending:
            while not self._outcome.done() and self._has_unsent:
                if not self._goes_on.is_set():
                    if self._audio.seconds <= HELD_SECONDS:
                        return
                    await self._goes_on.wait()
                    continue
                session = self._session
                assert session is not None and session.wire is not None, "it goes on"
                if session.end.done():
                    self._goes_on.clear()
                elif session.wire.unsent_bytes > HIGH_MARK_BYTES:
                    await session.wire.until_drained()
                elif self._ahead_seconds > MOST_AHEAD_SECONDS and session.speaks:
                    await asyncio.sleep(LOOK_SECONDS)
                elif not self._send_next(session, session.wire):
                    self._goes_on.clear()  # it is closing: another session or the outcome will come

    @property
    def _ahead_seconds(self) -> float:
        """Seconds of sent audio that the server has not reported as received: it gives up a stream that is too far ahead."""
        return (self._audio.milliseconds(self._sent) - self._told.received_ms) / 1000

    @property
    def _has_unsent(self) -> bool:
        unsent = [flush for flush in self._flushes if flush.session is not self._session]
        session = self._session
        is_closing = self._is_closing and not (session and session.has_closed)
        return self._sent < self._audio.end or bool(unsent or (session and session.lacks(self._keyterms))) or is_closing

    def _send_next(self, session: ClientSession, wire: Transport) -> bool:
        """Send keyterms, a flush, some audio up to the next flush, or the end of the audio. False if the connection closes."""
        if session.lacks(self._keyterms):
            return session.send_keyterms(wire, self._keyterms)
        flush = next((flush for flush in self._flushes if flush.session is not session), None)
        if flush is not None and flush.position <= self._sent:
            flush.session = session
            return wire.send('{"op":"flush"}')
        limit = self._audio.end if flush is None else flush.position
        if self._sent < limit:
            piece = self._audio.read(self._sent, min(MOST_BYTES, limit - self._sent))
            self._sent += len(piece)
            return wire.send(piece)
        session.has_closed = True
        return wire.send('{"op":"close"}')

    # From the server

    def _on_message(self, session: ClientSession, message: Message) -> None:
        if session is not self._session:
            return  # the next session transcribes the audio of this one again
        whole = self._told.take(message)
        self._audio.forget_before(self._told.closed_ms)
        if whole is None:
            return
        match message["op"]:
            case "interim":
                self._interims.put(whole)
            case "flushed" if self._flushes:
                self._flushes.popleft().flushed.set_result(whole)
            case "moving" if self._moving is None:
                self._moving = self._start(self._move(message["seconds"]))
            case "final" if session.has_closed:
                self._settle(whole)
            case "final":
                self._last_words = whole
                session.stop(StreamError("shutting_down", "the server has ended the stream"))
            case "error":
                session.stop(StreamError(whole["reason"], whole["message"], whole))

    def _settle(self, message: Message) -> None:
        if not self._outcome.done():
            self._outcome.set_result(message)
        self._interims.end()
        self._goes_on.set()

    def __aiter__(self) -> "StreamingClient":
        return self

    async def __anext__(self) -> Message:
        """Return the next interim; ends with the stream."""
        if (interim := await self._interims.next()) is None:
            raise StopAsyncIteration
        return interim

    # From one session to the next

    async def _connect(self) -> None:
        """Connect by one of the transports. Raises StreamError, OSError."""
        while self._transport != "websocket":  # the caller limits the time
            try:
                async with asyncio.timeout(WEBRTC_SECONDS):  # a server gives up an offer that has not connected within seconds
                    await self._begin(DataChannel, self._path)
                return
            except TimeoutError:
                if self._transport == "auto":
                    break
        await self._begin(Socket, "/ws")

    async def _begin(self, kind: type[DataChannel] | type[Socket], path: str) -> None:
        session = ClientSession(self._on_message)
        wire = kind(self._url + path, self._headers, session.take, session.lose)
        try:
            await session.begin(wire, lambda: self._take_over(session))
        except BaseException:
            session.lose()
            await wire.close()
            raise
        self._last_words = None
        self._goes_on.set()
        self._start(self._pump())

    def _take_over(self, session: ClientSession) -> Message:
        """Ignore the session before from now on, and send its open audio again. Returns the init."""
        before, self._session = self._session, session
        self._goes_on.clear()
        self._told.go_on()
        self._sent = self._audio.start
        self._audio.silence(self._told.closed_of_each)
        if before is not None and before.wire is not None:
            before.stop(StreamError("connection_lost", "the stream goes on elsewhere"))
            self._start(before.wire.close())
        session.keyterms = self._keyterms
        return self._init | {"keyterms": self._keyterms, "from_ms": self._audio.start_ms}

    async def _keep_going(self) -> None:
        """Begin new sessions until there is an outcome."""
        vain, closed_ms = 0, 0
        while not self._outcome.done():
            session = self._session
            assert session is not None, "one was begun"
            error = await session.watch()
            if self._moving is not None and not self._moving.done():
                await asyncio.wait([self._moving])
            if self._session is not session:
                continue  # the stream has moved
            self._goes_on.clear()
            vain, closed_ms = (0 if self._told.closed_ms > closed_ms else vain + 1), self._told.closed_ms
            if self._outcome.done() or vain >= MOST_VAIN or not await self._go_on(error, self._resume_seconds):
                self._settle(self._last_words or self._failure(error))

    async def _move(self, seconds: float) -> None:
        """Begin another session, because the server is about to end. Until then, this session goes on."""
        self._on_trouble(f"the server ends within {seconds} s; moving")
        await self._go_on(StreamError("shutting_down", "the server is about to end"), min(seconds, self._resume_seconds))
        self._moving = None

    async def _go_on(self, error: StreamError, seconds: float) -> bool:
        """Try to begin another session, first at once, then again and again. False if there is none."""
        deadline, told = time.monotonic() + seconds, error
        for pause in pauses():
            wait = pause and max(pause, told.retry_after or 0.0) * random.uniform(0.75, 1.25)
            if told.reason not in PASSING or time.monotonic() + wait >= deadline:
                return False
            await asyncio.sleep(wait)
            self._url = next(self._servers)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._connect()
                return True
            except Exception as exc:
                told = stream_error_of(exc)
            self._on_trouble(f"{told.message}; trying again")
        return False

    def _failure(self, error: StreamError) -> Message:
        """Return the server's error message, or make one with the text that may be kept."""
        found = {"op": "error", "reason": error.reason, "message": error.message, "sid": self.sid}
        return error.details or found | {"text": self._told.stable_text}


def stream_error_of(error: Exception) -> StreamError:
    """Return the reason why no session was possible, also if a server of another kind has answered."""
    match error:
        case StreamError():
            return error
        case OSError():
            return StreamError("connection_lost", str(error) or "no answer")
        case _:
            return StreamError("bad_answer", reason_of(error))


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each attempt."""
    yield 0.0
    pause = SOONEST_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LATEST_SECONDS)


@dataclass
class Transcription:
    """The transcription of one file's stream."""

    final: Message
    interims: list[Message] = field(default_factory=list)
    audio_seconds: float = 0.0
    """Seconds of audio that was sent."""
    seconds: float = 0.0
    """Seconds from the first frame to the final."""
    final_seconds: float = 0.0
    """Seconds from close to the final."""


async def transcribe(
    server: str,
    audio: np.ndarray,
    rtf: float = 1.0,
    path: str = "/webrtc",
    words: bool = False,
    on_interim: Callable[[Message], None] = lambda interim: None,
    *,
    keyterms: Sequence[Keyterm] = (),
    on_sent: Callable[[float], None] = lambda seconds: None,
    resume_seconds: float = RESUME_SECONDS,
    **options: Unpack[StreamOptions],
) -> Transcription:
    """Stream int16 audio, (samples,) or (samples, channels), and collect the answers.

    rtf: times real time; 0 is as fast as the connection allows.
    Raises StreamError, OSError (TimeoutError is one).
    """
    async with StreamingClient(
        server, path, words=words, keyterms=keyterms, max_interims=None, resume_seconds=resume_seconds, **options
    ) as client:
        interims: list[Message] = []

        async def collect() -> None:
            async for interim in client:
                interims.append(interim)
                on_interim(interim)

        collecting = asyncio.create_task(collect())
        began = time.monotonic()
        try:
            sent_seconds = await send_all(client, audio, rtf, on_sent)
            closed_at = time.monotonic()
            final = await client.close()
            ended_at = time.monotonic()
            await collecting
        finally:
            collecting.cancel()
        return Transcription(final, interims, sent_seconds, time.monotonic() - began, ended_at - closed_at)


async def send_all(client: StreamingClient, audio: np.ndarray, rtf: float, on_sent: Callable[[float], None]) -> float:
    """Send int16 audio frame by frame, until the server ends the stream; returns the seconds of audio sent."""
    began, sent_seconds = time.monotonic(), 0.0
    samples = SAMPLE_RATE * FRAME_MS // 1000
    for start in range(0, len(audio), samples):
        frame = audio[start : start + samples]
        if await client.send(frame.tobytes()) is not None:
            break
        sent_seconds = (start + len(frame)) / SAMPLE_RATE
        on_sent(sent_seconds)
        if rtf > 0:
            await asyncio.sleep(began + sent_seconds / rtf - time.monotonic())
    return sent_seconds


def checked(message: Message) -> Message:
    """Return the message. Raises StreamError if it is an error."""
    if message["op"] == "error":
        raise StreamError(message["reason"], message["message"], message)
    return message
