"""A gateway's connection to the engine processes: a transcriber whose engines run elsewhere. Used on the event loop's thread."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import zmq

from runtime.exceptions import EngineFailed, EngineStopped
from runtime.scheduler.loop import logged
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.transcriber import OnLost, OnResult, Status
from server.processes import messages
from server.processes.messages import (
    LOST_SECONDS,
    PARTS_AT_ONCE,
    PULSE_SECONDS,
    Answer,
    EnginePulse,
    GatewayPulse,
    SentParts,
    pulse_address,
)
from server.processes.sockets import EventSocket

logger = logging.getLogger(__name__)

HANGS = "the engine process hangs; connect again"
AWAY = "the engine process has died and is being started again; connect again"


class RemoteEngine:
    """A Transcriber. Every stream belongs to the engine process that had the fewest streams when it was opened.

    Engine processes may die and be started again; their streams are then lost.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic):
        """addresses: those of the engine processes' sockets, as ipc:///path."""
        self._links = [Link(address, clock) for address in addresses]
        self._of_stream: dict[str, Link] = {}

    async def run(self) -> None:
        for link in self._links:
            link.connect()
        await asyncio.gather(*(link.beat() for link in self._links))

    def status(self) -> Status:
        """Return the best status of the engine processes: one that is away or hangs is no reason to end the others."""
        found = {link.status() for link in self._links}
        best_first = (Status.READY, Status.RESTARTING, Status.STARTING, Status.HUNG, Status.FAILED)
        return next(status for status in best_first if status in found)

    @property
    def encodes_streams(self) -> bool:
        """True if the engine processes encode streams; all have the same model."""
        return any(link.encodes_streams for link in self._links)

    @property
    def sessions_elsewhere(self) -> int:
        """Sessions of the other gateways. Every gateway reports all its sessions to every engine process, so each knows all."""
        return max(link.sessions_elsewhere for link in self._links)

    def count_sessions(self, sessions: int) -> None:
        for link in self._links:
            link.sessions = sessions

    def open_stream(self, stream_id: str, on_lost: OnLost) -> None:
        links = [link for link in self._links if link.status() is Status.READY]
        if not links:
            raise EngineStopped(AWAY)
        link = min(links, key=lambda each: each.load)
        link.open_stream(stream_id, on_lost)
        self._of_stream[stream_id] = link

    def submit(self, request: Request, on_result: OnResult) -> None:
        if request.stream_id not in self._of_stream:
            raise EngineStopped(AWAY)
        self._of_stream[request.stream_id].submit(request, on_result)

    def close_stream(self, stream_id: str) -> None:
        if link := self._of_stream.pop(stream_id, None):
            link.close_stream(stream_id)

    def stop(self) -> None:
        for link in self._links:
            link.stop()


class Link:
    """The connection to one engine process."""

    def __init__(self, address: str, clock: Callable[[], float]):
        self._address = address
        self._clock = clock
        self._streams: dict[str, tuple[SentParts, OnLost]] = {}
        self._unanswered: dict[int, tuple[Request, OnResult]] = {}  # by request id
        self.sessions = 0
        """Sessions of this gateway."""
        self._reported_sessions = self._reported_streams = 0  # as sent with the last pulse
        self._pulse: EnginePulse | None = None  # the newest pulse of the engine process that has the streams
        self._pulse_at = float("-inf")
        self._was_found = False
        self._is_connected = False
        self._unsent: list[messages.ToEngine] = []

    def connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = EventSocket(zmq.DEALER, self._address)
        self._socket.receive(self._take_answers)
        self._pulses = EventSocket(zmq.SUB, pulse_address(self._address))
        self._pulses.receive(lambda data: self._take_pulse(messages.decode_pulse(data)))

    def status(self) -> Status:
        if self._pulse is not None and self._is_connected and self._clock() - self._pulse_at < LOST_SECONDS:
            return Status(self._pulse.status)
        return Status.RESTARTING if self._was_found else Status.STARTING

    @property
    def encodes_streams(self) -> bool:
        return self._pulse is not None and self._pulse.encodes_streams

    @property
    def load(self) -> int:
        """Streams on this engine process: this gateway's, and the others' as of the last pulse."""
        streams_elsewhere = max(0, self._pulse.streams - self._reported_streams) if self._pulse else 0
        return len(self._streams) + streams_elsewhere

    @property
    def sessions_elsewhere(self) -> int:
        """Sessions of the other gateways, as of the last pulse."""
        return max(0, self._pulse.sessions - self._reported_sessions) if self._pulse else 0

    def open_stream(self, stream_id: str, on_lost: OnLost) -> None:
        self._streams[stream_id] = (SentParts(), on_lost)
        self._send(messages.StreamOpened(stream_id))

    def submit(self, request: Request, on_result: OnResult) -> None:
        if self._pulse is None or self.status() is not Status.READY or request.stream_id not in self._streams:
            raise EngineStopped(AWAY)
        if request.clip.sample_count > self._pulse.max_samples:
            raise ValueError(f"{request.clip.seconds:.1f} s of audio; a slot holds {self._pulse.max_samples} samples")
        self._unanswered[request.request_id] = (request, on_result)
        sent_audio, _ = self._streams[request.stream_id]
        self._send(sent_audio.message_for(request))

    def close_stream(self, stream_id: str) -> None:
        """Close the stream; the engine process answers its open requests as cancelled."""
        if self._streams.pop(stream_id, None) is not None:
            self._send(messages.StreamClosed(stream_id))

    def stop(self) -> None:
        """Forget the unanswered requests."""
        self._unanswered.clear()

    def _send(self, message: messages.ToEngine) -> None:
        """Send the message together with all others of this turn of the event loop."""
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._loop.call_soon(self._flush)
        elif len(self._unsent) == PARTS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        # Messages are lost only while the engine process is gone; then its streams are lost, too, and beat() gives them up.
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._socket.send(messages.encode(unsent))

    def _take_answers(self, data: bytes) -> None:
        for answer in messages.decode_answers(data):
            with logged("a result could not be taken"):
                self._take_answer(answer)

    def _take_answer(self, answer: Answer) -> None:
        if asked := self._unanswered.pop(answer.request_id, None):
            request, on_result = asked
            on_result(messages.result_of(answer, request))

    def _take_pulse(self, pulse: EnginePulse) -> None:
        if self._pulse is None or pulse.epoch != self._pulse.epoch:
            if self._pulse is not None:
                self._lose()
            logger.info("an engine process is there")
        self._pulse, self._pulse_at, self._was_found = pulse, self._clock(), True
        self._is_connected = self._socket.is_connected()  # pulses have their own connection, which may be made first
        if self._streams and self.status() in (Status.HUNG, Status.FAILED):
            self._give_up(HANGS)

    async def beat(self) -> None:
        """Send this gateway's pulses, and notice when those of the engine process stop."""
        while True:
            self._reported_sessions, self._reported_streams = self.sessions, len(self._streams)
            self._send(GatewayPulse(self._reported_sessions))
            if self._pulse is not None and self._clock() - self._pulse_at >= LOST_SECONDS:
                self._lose()
            await asyncio.sleep(PULSE_SECONDS)

    def _lose(self) -> None:
        """Give up the streams: no other engine process knows them."""
        self._pulse = None
        self._give_up(AWAY)

    def _give_up(self, why: str) -> None:
        logger.error("%s; %d streams are lost", why, len(self._streams))
        lost, unanswered = dict(self._streams), dict(self._unanswered)
        self._unanswered.clear()
        for stream_id in lost:
            self.close_stream(stream_id)  # if the process was only slow, it must not keep streams that nobody will use again
        for request, on_result in unanswered.values():
            on_result(Result(request, error=EngineFailed(why)))
        for _, on_lost in lost.values():
            on_lost(why)
