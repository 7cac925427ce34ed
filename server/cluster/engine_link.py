"""A gateway's link to one engine process. Lives on the event loop's thread."""

import asyncio
import logging
import time
from collections.abc import Callable

import zmq
import zmq.asyncio

from runtime.exceptions import EngineFailed, EngineStopped
from runtime.scheduler.loop import OnResult
from runtime.scheduler.requests import Request, Result
from server.cluster import messages
from server.cluster.messages import LOST_SECONDS, PULSE_SECONDS, Answer, EnginePulse, GatewayPulse, SentAudio

logger = logging.getLogger(__name__)

AWAY = "the engine process has died and is being started again; connect again"


class EngineLink:
    """The interface of EngineLoop, over a socket. The engine process may die and come back; streams do not outlive it."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic):
        """address: of the engine process's socket, as ipc:///path."""
        self._address = address
        self._clock = clock
        self._streams: dict[str, SentAudio] = {}
        self._unanswered: dict[int, tuple[Request, OnResult]] = {}  # by request id
        self._told_sessions = 0
        self._pulse: EnginePulse | None = None  # the newest, of the engine process that has the streams
        self._heard_at = float("-inf")
        self._tasks: list[asyncio.Task] = []
        self._found = asyncio.Event()
        self.on_lost: Callable[[list[str], str], None] = lambda stream_ids, message: None
        """Called when the engine process is lost, with the streams that were there and a sentence for them."""

    def start(self) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # what finds nobody at the other end must not reach the next engine process
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.connect(self._address)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._beat())]

    @property
    def alive(self) -> bool:
        return self._pulse is not None and self._clock() - self._heard_at < LOST_SECONDS

    @property
    def load(self) -> int:
        """Streams on this engine process: this gateway's, and the others' as of the last pulse."""
        return len(self._streams) + self.sessions_elsewhere

    @property
    def sessions_elsewhere(self) -> int:
        """Of the other gateways, as of the last pulse."""
        return max(0, self._pulse.sessions - self._told_sessions) if self._pulse else 0

    async def until_alive(self) -> None:
        """The first time."""
        await self._found.wait()

    def seconds_in_step(self) -> float:
        return self._pulse.seconds_in_step if self._pulse else 0.0

    def submit(self, request: Request, on_result: OnResult) -> None:
        """See EngineLoop.submit; the request's stream must be open."""
        if not self.alive or request.stream_id not in self._streams:
            raise EngineStopped(AWAY)
        if len(request.clip.samples) > self._pulse.max_samples:
            raise ValueError(f"{request.clip.seconds:.1f} s of audio; a slot holds {self._pulse.max_samples} samples")
        self._unanswered[request.request_id] = (request, on_result)
        self._send(self._streams[request.stream_id].message_for(request))

    def open_stream(self, stream_id: str) -> None:
        """Raises EngineStopped while there is no engine process."""
        if not self.alive:
            raise EngineStopped(AWAY)
        self._streams[stream_id] = SentAudio()
        self._send(messages.OpenStream(stream_id))

    def close_stream(self, stream_id: str) -> None:
        """What it has waiting is answered by the engine process, as cancelled."""
        if self._streams.pop(stream_id, None) is not None:
            self._send(messages.CloseStream(stream_id))

    def stop(self) -> None:
        """Give up what is unanswered. Called on any thread, after the last session has ended."""
        self._unanswered.clear()

    def _send(self, message: messages.ToEngine) -> None:
        # It fails only while nobody is at the other end; then the streams are lost, and _beat sees to it.
        sending = self._socket.send(messages.encode(message), zmq.NOBLOCK)
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _receive(self) -> None:
        while True:
            data = await self._socket.recv()
            try:
                self._take(messages.decode_to_gateway(data))
            except Exception:  # one message that cannot be used must not silence all streams
                logger.exception("a message of the engine process could not be taken")

    def _take(self, message: messages.ToGateway) -> None:
        match message:
            case EnginePulse() as pulse:
                self._take_pulse(pulse)
            case Answer() as answer if answer.request_id in self._unanswered:
                request, on_result = self._unanswered.pop(answer.request_id)
                on_result(messages.result_of(answer, request))

    def _take_pulse(self, pulse: EnginePulse) -> None:
        if self._pulse is None or pulse.epoch != self._pulse.epoch:
            if self._pulse is not None:
                self._lose()
            logger.info("an engine process is there")
            self._found.set()
        self._pulse, self._heard_at = pulse, self._clock()

    async def _beat(self) -> None:
        """Say that this gateway is there, and notice when the engine process no longer is."""
        while True:
            self._told_sessions = len(self._streams)
            self._send(GatewayPulse(self._told_sessions))
            if self._pulse is not None and not self.alive:
                self._lose()
            await asyncio.sleep(PULSE_SECONDS)

    def _lose(self) -> None:
        """The streams were there, and no other engine process knows them."""
        logger.error("the engine process is gone, and %d streams with it", len(self._streams))
        self._pulse = None
        stream_ids = list(self._streams)
        for stream_id in stream_ids:
            self.close_stream(stream_id)  # should it only have been slow: nobody will come back to them
        unanswered, self._unanswered = self._unanswered, {}
        for request, on_result in unanswered.values():
            on_result(Result(request, error=EngineFailed(AWAY)))
        self.on_lost(stream_ids, AWAY)
