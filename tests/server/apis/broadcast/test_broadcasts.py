"""Broadcasts: found by their names for a while after their end, and never more of them than may be."""

import asyncio

from benchmarks.harness.simulation import SimulatedSeat
from server.apis.broadcast import broadcasts as module
from server.apis.broadcast.broadcasts import Broadcasts
from server.apis.broadcast.session import BroadcastSession
from server.settings import SessionLimits
from server.telemetry.metrics import Api, Metrics
from tests.server.apis.deepgram.test_deepgram import TOKENIZER


def test_the_words_of_those_that_have_ended_are_kept_up_to_a_number(monkeypatch):
    monkeypatch.setattr(module, "MOST_ENDED", 3)

    async def run() -> None:
        kept = Broadcasts(Metrics())
        sessions = [BroadcastSession(SimulatedSeat(SessionLimits(), TOKENIZER, print), 60.0) for _ in range(6)]
        for number, session in enumerate(sessions):
            kept.publish(kept.begin(Api.TWILIO, f"name {number}", f"channel {number}", session))
        for session in sessions[:5]:
            session.finish(0.0)
        assert [kept.find(f"name {number}") is not None for number in range(6)] == [False] * 2 + [True] * 4
        assert [kept.find_channel(f"channel {number}") is not None for number in range(6)] == [False] * 2 + [True] * 4

    asyncio.run(run())
