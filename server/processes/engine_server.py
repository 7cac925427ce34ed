"""The engine loop's side of the gateways: their streams, and the audio of each open segment, so that audio is sent only once."""

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from runtime.audio import Clip
from runtime.exceptions import EngineError, EngineFailed, EngineStopped
from runtime.scheduler.inbox import Inbox
from runtime.scheduler.loop import EngineLoop, logged
from runtime.scheduler.requests import Result
from server.processes import messages
from server.processes.messages import (
    LOST_SECONDS,
    PARTS_AT_ONCE,
    PULSE_SECONDS,
    Answer,
    GatewayPulse,
    ReceivedParts,
    StreamClosed,
    StreamOpened,
    Transcribe,
)

logger = logging.getLogger("server.engine")

NO_AUDIO = Clip(np.zeros(0, np.int16))


class MailboxInterface(Protocol):
    """A Mailbox, or a replacement for it."""

    def wait(self, timeout_seconds: float) -> None: ...

    def wake(self) -> None: ...

    def messages(self) -> Iterator[tuple[bytes, bytes]]: ...

    def send(self, identity: bytes, data: bytes) -> None: ...


@dataclass
class KnownGateway:
    """The state of one gateway process."""

    message_at: float
    sessions: int = 0
    streams: dict[str, ReceivedParts] = field(default_factory=dict)


class EngineServer(Inbox):
    """The engine loop's inbox: it receives the gateways' messages on the loop's own thread, and answers them there."""

    sessions = 0
    """Sessions of all gateways, as they last reported."""
    streams = 0
    """Streams on this engine."""

    def __init__(self, mailbox: MailboxInterface, clock: Callable[[], float] = time.monotonic):
        self._mailbox = mailbox
        self._clock = clock
        self._gateways: dict[bytes, KnownGateway] = {}
        self._request_ids = itertools.count()
        self._posted: deque[object] = deque()
        self._unsent: dict[bytes, list[Answer]] = {}  # by gateway
        self._looked_at = clock()  # time of the last check for gateways that are gone
        self._thread = threading.get_ident()

    def serve(self, engine_loop: EngineLoop) -> None:
        """Set the loop that this inbox belongs to. Called before the loop starts."""
        self._engine_loop = engine_loop

    def put(self, message: object) -> None:
        self._posted.append(message)
        if threading.get_ident() != self._thread:
            self._mailbox.wake()

    def take(self, timeout_seconds: float | None) -> Iterator[object]:
        self._thread = threading.get_ident()
        if timeout_seconds != 0.0 and not self._posted:
            self._mailbox.wait(PULSE_SECONDS if timeout_seconds is None else min(timeout_seconds, PULSE_SECONDS))
        for identity, data in self._mailbox.messages():
            with logged("a message of a gateway could not be read"):
                for message in messages.decode_to_engine(data):
                    # One message that cannot be used must not silence all streams. The engine reports its end to all.
                    with logged("a message of a gateway could not be taken"), contextlib.suppress(EngineStopped):
                        self._receive(identity, message)
        with logged("answers could not be sent"):
            self.flush()  # to requests that could not be accepted
        if self._clock() - self._looked_at >= PULSE_SECONDS:
            self._look_after_gateways()
        while self._posted:
            yield self._posted.popleft()

    def flush(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for identity, answers in unsent.items():
            for first in range(0, len(answers), PARTS_AT_ONCE):
                self._mailbox.send(identity, messages.encode(answers[first : first + PARTS_AT_ONCE]))

    def _receive(self, identity: bytes, message: messages.ToEngine) -> None:
        gateway = self._gateways.get(identity)
        if gateway is None:
            gateway = self._gateways[identity] = KnownGateway(0.0)
        gateway.message_at = self._clock()
        match message:
            case Transcribe():
                self._transcribe(identity, gateway, message)
            case GatewayPulse(sessions):
                gateway.sessions = sessions
            case StreamOpened(stream_id):
                gateway.streams[stream_id] = ReceivedParts()
                self._engine_loop.open_stream(unique_name(identity, stream_id))
            case StreamClosed(stream_id):
                if gateway.streams.pop(stream_id, None) is not None:
                    self._engine_loop.close_stream(unique_name(identity, stream_id))

    def _transcribe(self, identity: bytes, gateway: KnownGateway, message: Transcribe) -> None:
        asked = message.asked

        def answer(result: Result) -> None:
            self._unsent.setdefault(identity, []).append(messages.answer_of(result, asked.request_id))

        try:
            if asked.stream_id not in gateway.streams:
                raise EngineFailed("the engine process does not know this stream")
            received = gateway.streams[asked.stream_id]
            keyterms, clip = received.take_keyterms(message.keyterms), received.clip_of(message.audio)
            name = unique_name(identity, asked.stream_id)
            request = messages.request_of(asked, clip, next(self._request_ids), name, keyterms)
            self._engine_loop.submit(request, answer)
        except (EngineError, ValueError) as exc:
            error = exc if isinstance(exc, EngineError) else EngineFailed(str(exc))
            answer(Result(messages.request_of(asked, NO_AUDIO, asked.request_id, asked.stream_id), error=error))

    def _look_after_gateways(self) -> None:
        """Give up the gateways that have sent nothing for LOST_SECONDS."""
        self._looked_at = now = self._clock()
        for identity, gateway in list(self._gateways.items()):
            if now - gateway.message_at > LOST_SECONDS:
                level = logging.ERROR if gateway.streams else logging.INFO
                logger.log(level, "a gateway is gone, and %d streams with it", len(gateway.streams))
                for stream_id in gateway.streams:
                    self._engine_loop.close_stream(unique_name(identity, stream_id))
                del self._gateways[identity]
        self.sessions = sum(gateway.sessions for gateway in self._gateways.values())
        self.streams = sum(len(gateway.streams) for gateway in self._gateways.values())


def unique_name(identity: bytes, stream_id: str) -> str:
    """Name of a stream that is unique among all gateways."""
    return f"{identity.hex()}/{stream_id}"
