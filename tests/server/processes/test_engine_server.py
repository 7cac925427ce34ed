"""What gateways ask of an engine loop, message by message, and the loop's own wait for them."""

import contextlib
import itertools
import queue
import threading

import numpy as np
import pytest
import zmq

from runtime.audio import Clip
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Request, Result
from runtime.scheduler.transcriber import OnResult
from server.processes import messages
from server.processes.engine_server import EngineServer
from server.processes.messages import (
    LOST_SECONDS,
    PARTS_AT_ONCE,
    PULSE_SECONDS,
    GatewayPulse,
    SentParts,
    StreamClosed,
    StreamOpened,
    Transcribe,
)
from server.processes.sockets import Mailbox
from tests.runtime.scheduler.test_loop import FakeEngine

LONGEST_WAIT_SECONDS = 10.0


class Post:
    """A mailbox in memory."""

    def __init__(self):
        self._arrived: queue.SimpleQueue = queue.SimpleQueue()
        self._held: list = []
        self.sent: queue.SimpleQueue = queue.SimpleQueue()
        self.sizes: list[int] = []
        """Answers in each message sent."""

    def bring(self, identity: bytes, *sent: messages.ToEngine) -> None:
        self.bring_data(identity, messages.encode(sent))

    def bring_data(self, identity: bytes, data: bytes) -> None:
        self._arrived.put((identity, data))

    def wake(self) -> None:
        self._arrived.put(None)

    def wait(self, timeout_seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._held.append(self._arrived.get(timeout=timeout_seconds))

    def messages(self):
        while not self._arrived.empty():
            self._held.append(self._arrived.get_nowait())
        held, self._held = self._held, []
        return [message for message in held if message]

    def send(self, identity: bytes, data: bytes) -> None:
        answers = messages.decode_answers(data)
        self.sizes.append(len(answers))
        for answer in answers:
            self.sent.put((identity, answer))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def serve():
    """Starts a loop that takes its messages from a Post; ends it after the test."""
    loops = []

    def start(engine) -> tuple[Post, EngineServer, Clock]:
        post, clock = Post(), Clock()
        server = EngineServer(post, clock)
        loop = EngineLoop(engine, 0.0, Observer(), inbox=server)
        server.serve(loop)
        loops.append(loop)
        loop.start()
        return post, server, clock

    yield start
    for loop in loops:
        loop.stop()


def transcribe(number: int, stream_id: str) -> Transcribe:
    return SentParts().message_for(Request(number, stream_id, Clip(np.zeros(16_000, np.int16))))


def test_every_request_is_answered_to_the_gateway_that_asked(serve):
    post, *_ = serve(FakeEngine())
    for gateway, number in itertools.product((b"a", b"b"), range(20)):
        post.bring(gateway, StreamOpened(f"s{number}"))
        post.bring(gateway, transcribe(number, f"s{number}"))
    answers = [post.sent.get(timeout=LONGEST_WAIT_SECONDS) for _ in range(40)]
    asked = [(gateway, answer.request_id) for gateway, answer in answers]
    assert sorted(asked) == sorted(itertools.product((b"a", b"b"), range(20)))
    assert all(answer.result.tokens == (9,) for _, answer in answers)


def test_what_cannot_be_used_is_answered_or_passed_over_and_the_next_is_served(serve):
    post, *_ = serve(FakeEngine())
    post.bring_data(b"a", b"\xc1 no message")
    post.bring(b"a", transcribe(1, "never opened"))
    post.bring(b"a", StreamOpened("s"))
    post.bring(b"a", transcribe(2, "s"))
    refused, served = (post.sent.get(timeout=LONGEST_WAIT_SECONDS)[1] for _ in range(2))
    assert refused.request_id == 1 and "does not know this stream" in refused.result.error[1]
    assert served.request_id == 2 and served.result.error is None


class HoldingLoop:
    """An engine loop that answers when the test says so."""

    def __init__(self):
        self.asked: list[tuple[Request, OnResult]] = []

    def open_stream(self, stream_id: str) -> None:
        pass

    def submit(self, request: Request, on_result: OnResult) -> None:
        self.asked.append((request, on_result))


def test_answers_that_are_ready_together_cross_in_lists_that_a_gateway_takes_without_a_pause():
    post, holding = Post(), HoldingLoop()
    server = EngineServer(post)
    server.serve(holding)
    for number in range(2 * PARTS_AT_ONCE + 8):
        post.bring(b"a", StreamOpened(f"s{number}"), transcribe(number, f"s{number}"))
    list(server.take(0.0))
    for request, answer in holding.asked:
        answer(Result(request))
    assert post.sizes == []
    server.flush()
    server.flush()
    assert post.sizes == [PARTS_AT_ONCE, PARTS_AT_ONCE, 8], "each once"


def test_the_streams_of_a_gateway_that_is_gone_are_closed(serve):
    """Its unanswered request is cancelled, and the others' are served."""
    encoding, may_go_on = threading.Event(), threading.Event()

    def hold(what: str) -> None:
        if what == "encode" and not encoding.is_set():
            encoding.set()
            assert may_go_on.wait(LONGEST_WAIT_SECONDS)

    post, server, clock = serve(FakeEngine(hold))
    for gateway in (b"gone", b"there"):
        post.bring(gateway, GatewayPulse(1))
        post.bring(gateway, StreamOpened("s"))
    post.bring(b"gone", transcribe(1, "s"))
    assert encoding.wait(LONGEST_WAIT_SECONDS)
    clock.now += LOST_SECONDS + PULSE_SECONDS
    post.bring(b"there", GatewayPulse(1))
    post.bring(b"there", transcribe(2, "s"))
    may_go_on.set()
    answers = dict(post.sent.get(timeout=LONGEST_WAIT_SECONDS) for _ in range(2))
    assert answers[b"gone"].result.error[0] == "RequestCancelled" and answers[b"there"].result.tokens == (9,)
    assert server.sessions == 1, "of those that are there"


def test_a_closed_stream_needs_no_pulse_to_be_forgotten(serve):
    post, *_ = serve(FakeEngine())
    for message in (StreamOpened("s"), StreamClosed("s"), transcribe(1, "s")):
        post.bring(b"a", message)
    assert "does not know this stream" in post.sent.get(timeout=LONGEST_WAIT_SECONDS)[1].result.error[1]


def test_what_is_no_message_of_a_gateway_is_passed_over(tmp_path):
    mailbox = Mailbox(f"ipc://{tmp_path}/engine")
    mailbox.open()
    stranger = zmq.Context.instance().socket(zmq.DEALER)
    stranger.connect(f"ipc://{tmp_path}/engine")
    for frames in ([b"one", b"too many"], [b"", b"", b""], [b"right"]):
        stranger.send_multipart(frames)
    found = []
    while not found:
        mailbox.wait(LONGEST_WAIT_SECONDS)
        found += mailbox.messages()
    assert [data for _, data in found] == [b"right"]
    stranger.close(0)
    mailbox.close()


def test_a_wait_for_messages_ends_when_another_thread_wants_something(tmp_path):
    """Also when it is woken very often, or before it waits."""
    mailbox = Mailbox(f"ipc://{tmp_path}/engine")
    mailbox.open()
    for _ in range(100_000):
        mailbox.wake()
    for _ in range(100):  # until what is left of it is taken
        mailbox.wait(0.0)
    waiting = threading.Thread(target=mailbox.wait, args=[1000.0], daemon=True)
    waiting.start()
    mailbox.wake()
    waiting.join(LONGEST_WAIT_SECONDS)
    assert not waiting.is_alive()
    mailbox.close()
