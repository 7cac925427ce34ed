"""All sessions of a process: who is let in, and what a defect of one does to the others."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from runtime.scheduler.requests import Request, Result
from runtime.scheduler.transcriber import OnLost, OnResult, Status
from runtime.tokenizer import Tokenizer
from server.access import ANYONE, Caller
from server.apis.native.messages import Message, Server
from server.apis.native.session import NativeSession
from server.errors import Refused
from server.sessions.recording import Recording
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Access, SessionLimits, Settings
from server.telemetry.logs import FIELDS
from server.telemetry.metrics import Api, Metrics

SERVER, LIMITS = Server(32, "r"), SessionLimits()
TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two"])
INIT, CLOSE = '{"op":"init","sid":"a"}', '{"op":"close"}'
SOUND = bytes([0, 64, 0, 192] * 8000)  # a second


@dataclass
class FakeTranscriber:
    """Says what it is told to say."""

    said: Status = Status.READY
    sessions_elsewhere: int = 0
    encodes_streams: bool = False
    answers: Callable[[Request], Result] = lambda request: Result(request, (3, 4), (-0.1, -0.1))
    lost: dict[str, OnLost] = field(default_factory=dict)
    fails: bool = False
    stopped: bool = False
    sessions_here: int = 0

    async def run(self) -> None:
        if self.fails:
            raise RuntimeError("a defect of the transcriber")
        await asyncio.get_running_loop().create_future()

    def status(self) -> Status:
        return self.said

    def count_sessions(self, sessions: int) -> None:
        self.sessions_here = sessions

    def open_stream(self, stream_id: str, on_lost: OnLost) -> None:
        self.lost[stream_id] = on_lost

    def close_stream(self, stream_id: str) -> None:
        self.lost.pop(stream_id, None)

    def submit(self, request: Request, on_result: OnResult) -> None:
        on_result(self.answers(request))

    def stop(self) -> None:
        self.stopped = True


class Client:
    """What one client was told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ended = asyncio.Event()

    def receive(self, message: Message) -> bool:
        self.messages.append(message)
        return True

    @property
    def last(self) -> tuple[str, str]:
        message = self.messages[-1]
        return message.op, str(getattr(message, "reason", ""))


def make_sessions(transcriber: FakeTranscriber, max_sessions: int = 4, metrics: Metrics | None = None) -> Sessions:
    settings = Settings(access=Access(max_sessions=max_sessions))
    return Sessions(transcriber, TOKENIZER, settings, metrics or Metrics(), clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(Status.STARTING, "warming_up"), (Status.RESTARTING, "warming_up"), (Status.FAILED, "engine_failed")],
)
def test_a_new_session_is_refused_with_the_reason(status, reason):
    metrics = Metrics()
    sessions = make_sessions(FakeTranscriber(status), metrics=metrics)
    with pytest.raises(Refused) as refused:
        begin(sessions)
    assert refused.value.code == reason and refused.value.message and refused.value.code.http_status == 503
    assert f'asr_offers_refused_total{{reason="{reason}"}} 1.0' in metrics.render().decode()


def test_places_are_counted_over_all_processes_and_given_back():
    transcriber = FakeTranscriber(sessions_elsewhere=2)
    sessions = make_sessions(transcriber, max_sessions=3)
    _, first = connect(sessions)
    with pytest.raises(Refused, match="all 3 sessions are taken"):
        begin(sessions)
    first.leave()
    first.leave()
    assert len(sessions) == 0 and not transcriber.lost
    begin(sessions)


def test_a_place_is_taken_with_init_and_not_before():
    """Twelve small requests used to shut the server for ten seconds."""
    sessions = make_sessions(FakeTranscriber(), max_sessions=1)
    silent = [begin(sessions) for _ in range(12)]
    client, seat = connect(sessions)
    assert client.last == ("ready", "")
    late = Client()
    with pytest.raises(Refused):
        begin(sessions, late)
    for each in silent:
        each.leave()
    seat.leave()
    assert connect(sessions)[0].last == ("ready", "")


def test_whoever_comes_too_late_for_a_place_is_told_over_the_channel():
    sessions = make_sessions(FakeTranscriber(), max_sessions=1)
    late = Client()
    seat = begin(sessions, late)
    connect(sessions)
    seat.receive_text(INIT)
    assert late.last == ("error", "server_full") and late.ended.is_set()


@pytest.mark.parametrize(("message", "reason"), [(INIT, "server_full"), ("no JSON", "bad_message"), (CLOSE, "not_initialised")])
def test_the_log_says_why_a_session_that_never_began_has_ended(message, reason):
    lines = list[logging.LogRecord]()
    handler = logging.Handler()
    handler.emit = lines.append
    logger = logging.getLogger("server.sessions.seat")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    sessions = make_sessions(FakeTranscriber(), max_sessions=1)
    seat = begin(sessions)
    connect(sessions)
    seat.receive_text(message)
    logger.removeHandler(handler)
    assert [getattr(line, FIELDS)["ended"] for line in lines] == [reason]


def test_connections_of_one_address_that_never_begin_are_bounded():
    settings = Settings(access=Access(max_sessions=9, max_connecting_per_address=2))
    sessions = Sessions(FakeTranscriber(), TOKENIZER, settings, Metrics(), clock=lambda: 0.0)
    here, there = Caller("anyone", address="10.0.0.1"), Caller("anyone", address="10.0.0.2")
    first, _ = (begin(sessions, caller=here) for _ in range(2))
    with pytest.raises(Refused) as refused:
        begin(sessions, caller=here)
    assert refused.value.code == "too_many_sessions"
    begin(sessions, caller=there)
    first.receive_text(INIT)
    begin(sessions, caller=here)


def test_a_session_may_last_so_long_and_keeps_what_it_was_told():
    async def run() -> None:
        now, client, spared = [0.0], Client(), Client()
        settings = Settings(access=Access(max_sessions=4), session=SessionLimits(max_session_seconds=100))
        sessions = Sessions(FakeTranscriber(), TOKENIZER, settings, Metrics(), clock=lambda: now[0])
        sessions.start()
        await sessions.until_warm()
        seat = begin(sessions, client)
        seat.receive_text(INIT)
        now[0] = 60.0
        later = begin(sessions, spared)
        later.receive_text(INIT)
        recording = Recording(sessions.take_seat(Api.OPENAI_REST))
        for now[0] in (99.0, 101.0):
            seat.receive_audio(SOUND)
            later.receive_audio(SOUND)
            await sessions.until_tick()
            assert client.ended.is_set() == (now[0] > 100)
        assert client.last == ("error", "session_too_long") and not spared.ended.is_set() and len(sessions) == 2
        recording.drop()
        await sessions.shut_down(1)

    asyncio.run(run())


def test_a_client_that_is_held_back_is_not_idle():
    async def run() -> None:
        now, client, transcriber = [0.0], Client(), FakeTranscriber()
        transcriber.submit = lambda request, on_result: None  # it is behind, for ever
        settings = Settings(session=SessionLimits(max_buffer_seconds=10, idle_timeout_seconds=8))
        sessions = Sessions(transcriber, TOKENIZER, settings, Metrics(), clock=lambda: now[0])
        sessions.start()
        await sessions.until_warm()
        seat = begin(sessions, client, limits=settings.session)
        seat.receive_text(INIT)
        for _ in range(6):
            seat.receive_audio(SOUND)
        reading = asyncio.create_task(seat.until_ready())
        for _ in range(5):  # the engine's answer is given up after half a minute
            now[0] += 5.0
            await sessions.until_tick()
        assert not client.ended.is_set() and not reading.done()
        seat.leave()
        await reading
        await sessions.shut_down(1)

    asyncio.run(run())


def test_a_client_that_speaks_at_its_pace_is_held_back_before_too_much_waits():
    """Its messages are few between two ticks."""

    async def run() -> None:
        now, client, transcriber = [0.0], Client(), FakeTranscriber()
        transcriber.submit = lambda request, on_result: None  # it is behind, for ever
        settings = Settings(session=SessionLimits(max_buffer_seconds=10))
        sessions = Sessions(transcriber, TOKENIZER, settings, Metrics(), clock=lambda: now[0])
        sessions.start()
        await sessions.until_warm()
        seat = begin(sessions, client, limits=settings.session)
        seat.receive_text(INIT)
        while not seat.is_behind:
            seat.receive_audio(SOUND[:640])
            now[0] += 0.02
            if round(now[0] / 0.02) % 5 == 0:
                seat.on_time(now[0])
            assert now[0] < 6.0, "half of what may wait does"
        assert now[0] > 5.0 and not client.ended.is_set()
        await sessions.shut_down(1)

    asyncio.run(run())


def test_a_client_that_sends_long_texts_is_held_back():
    async def run() -> None:
        now = [0.0]
        sessions = Sessions(FakeTranscriber(), TOKENIZER, Settings(), Metrics(), clock=lambda: now[0])
        sessions.start()
        await sessions.until_warm()
        seat = begin(sessions, Client())
        seat.receive_text(INIT)
        text = '{"op":"keyterms","keyterms":[]}' + " " * 15_000
        while not seat.is_behind:
            for _ in range(15):  # between two ticks
                seat.receive_text(text)
            now[0] += 0.001
            seat.on_time(now[0])
            assert now[0] < 1.0
        await sessions.shut_down(1)

    asyncio.run(run())


def test_a_client_that_changes_its_keyterms_all_the_time_is_held_back_at_once():
    """Each list may take 40 ms of the event loop."""

    async def run() -> None:
        sessions = Sessions(FakeTranscriber(), TOKENIZER, Settings(), Metrics(), clock=lambda: 0.0)
        sessions.start()
        await sessions.until_warm()
        seat = begin(sessions, Client())
        seat.receive_text(INIT)
        changes = 0
        while not seat.is_behind:
            seat.receive_text(json.dumps({"op": "keyterms", "keyterms": [f"term {changes}"]}))
            changes += 1
        assert changes < 40
        await sessions.shut_down(1)

    asyncio.run(run())


def test_who_asked_for_it_is_told_that_the_server_moves():
    async def scenario(sessions: Sessions) -> None:
        asked, seat = connect(sessions, '{"op":"init","sid":"a","moving":true}')
        silent, other = connect(sessions)
        draining = asyncio.create_task(sessions.drain(30.0))
        await asyncio.sleep(0)
        assert asked.messages[-1].op == "moving" and asked.messages[-1].seconds == 30 and silent.last == ("ready", "")
        assert sessions.refusal().code == "shutting_down" and not draining.done()
        seat.receive_text(CLOSE)
        other.leave()
        await asyncio.wait_for(draining, 5.0)
        assert asked.last == ("final", "")

    run(scenario, FakeTranscriber())


def run(scenario, transcriber: FakeTranscriber) -> None:
    async def play() -> None:
        sessions = make_sessions(transcriber)
        sessions.start()
        await asyncio.wait_for(sessions.until_warm(), 5.0)
        await scenario(sessions)
        await sessions.shut_down(timeout_seconds=5.0)
        assert transcriber.stopped

    asyncio.run(play())


def begin(sessions: Sessions, client: Client | None = None, caller: Caller = ANYONE, limits: SessionLimits = LIMITS) -> Seat:
    """A native session without init."""
    client = client or Client()
    seat = sessions.take_seat(Api.WEBRTC, caller, client.ended.set, waits=True)
    NativeSession(seat, limits, SERVER, client.receive)
    return seat


def connect(sessions: Sessions, init: str = INIT) -> tuple[Client, Seat]:
    client = Client()
    seat = begin(sessions, client)
    seat.receive_text(init)
    return client, seat


def test_a_defect_in_one_session_ends_it_by_name_and_no_other():
    """A result that makes a session raise used to be asked for again and again, and its client heard nothing."""

    def answers(request: Request) -> Result:
        tokens = (3, 99) if request.stream_id == spoilt.session_id else (3, 4)  # no such token
        return Result(request, tokens, (-0.1, -0.1))

    async def scenario(sessions: Sessions) -> None:
        nonlocal spoilt
        bad, spoilt = connect(sessions)
        good, seat = connect(sessions)
        spoilt.receive_audio(SOUND)
        seat.receive_audio(SOUND)
        await asyncio.wait_for(bad.ended.wait(), 5.0)
        assert bad.last == ("error", "internal_error")
        seat.receive_text(CLOSE)
        await asyncio.wait_for(good.ended.wait(), 5.0)
        assert good.last == ("final", "") and good.messages[-1].text == "one two"

    spoilt = None
    run(scenario, FakeTranscriber(answers=answers))


def test_a_client_whose_transport_raises_is_dropped_and_the_others_hear_of_the_shutdown():
    async def scenario(sessions: Sessions) -> None:
        def broken(message: Message) -> bool:
            raise OSError("the connection is broken")

        ended = asyncio.Event()
        seat = sessions.take_seat(Api.WEBRTC, on_end=ended.set, waits=True)
        NativeSession(seat, LIMITS, SERVER, broken)
        good, _ = connect(sessions)
        seat.receive_text(INIT)
        await asyncio.wait_for(ended.wait(), 5.0)
        assert len(sessions) == 1
        await sessions.shut_down(timeout_seconds=5.0)
        assert good.last == ("final", "")

    run(scenario, FakeTranscriber())


def test_streams_that_lose_their_engine_are_told():
    transcriber = FakeTranscriber()

    async def scenario(sessions: Sessions) -> None:
        client, seat = connect(sessions)
        transcriber.lost[seat.session_id]("the engine process has died")
        await asyncio.wait_for(client.ended.wait(), 5.0)
        assert client.last == ("error", "engine_failed") and len(sessions) == 0

    run(scenario, transcriber)


def test_the_end_of_a_background_task_is_noticed():
    """Without its clock or its transcriber a server would serve nobody and look alive."""

    async def scenario() -> None:
        noticed = asyncio.Event()
        sessions = make_sessions(FakeTranscriber(fails=True))
        sessions.on_defect = noticed.set
        sessions.start()
        await asyncio.wait_for(noticed.wait(), 5.0)
        await asyncio.sleep(0)
        assert not sessions.alive and sessions.refusal().code == "shutting_down"

    asyncio.run(scenario())


def test_a_server_that_shuts_down_says_so():
    async def refuse_while_shutting_down() -> Refused | None:
        sessions = make_sessions(FakeTranscriber())
        await sessions.shut_down(timeout_seconds=1.0)
        return sessions.refusal()

    assert asyncio.run(refuse_while_shutting_down()).code == "shutting_down"


def test_a_hanging_engine_fails_its_streams_and_one_that_is_lost_ends_the_process():
    async def play() -> None:
        transcriber, defects = FakeTranscriber(), []
        sessions = make_sessions(transcriber)
        sessions.on_defect = lambda: defects.append("ended")
        sessions.start()
        await asyncio.wait_for(sessions.until_warm(), 5.0)
        client, _ = connect(sessions)
        transcriber.said = Status.HUNG
        await asyncio.wait_for(client.ended.wait(), 5.0)
        assert client.last == ("error", "engine_failed") and "hung" in client.messages[-1].message
        assert sessions.refusal().code == "engine_failed" and sessions.alive and not defects
        transcriber.said = Status.READY
        assert connect(sessions)[0].last == ("ready", "")
        transcriber.said = Status.FAILED
        while not defects:  # noqa: ASYNC110 - until the sessions have looked
            await asyncio.sleep(0.01)
        assert not sessions.alive
        await sessions.shut_down(timeout_seconds=1.0)

    asyncio.run(play())
