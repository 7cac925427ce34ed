"""Who is let in, and what is said to those who are not."""

import asyncio
from dataclasses import dataclass

import pytest

from benchmarks.simulation import DEFAULT_LIMITS
from server.sessions import STUCK_SECONDS, Hub, Refused
from server.telemetry.metrics import Metrics


@dataclass
class FakeLoop:
    """An engine loop that is asked nothing but how it is."""

    alive: bool = True
    stuck_seconds: float = 0.0
    recovers: bool = False
    sessions_elsewhere: int = 0

    def seconds_in_step(self) -> float:
        return self.stuck_seconds

    def stop(self) -> None:
        self.alive = False


def make_hub(engine_loop: FakeLoop, max_sessions: int = 1) -> Hub:
    return Hub(engine_loop, None, DEFAULT_LIMITS, max_sessions, Metrics(), clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("engine_loop", "reason"),
    [
        (FakeLoop(), "warming_up"),
        (FakeLoop(alive=False), "engine_failed"),
        (FakeLoop(stuck_seconds=STUCK_SECONDS), "engine_failed"),
    ],
)
def test_a_new_session_is_refused_with_the_reason(engine_loop, reason):
    hub = make_hub(engine_loop)
    with pytest.raises(Refused) as refused:
        hub.open(send=print, on_end=lambda: None)
    assert refused.value.reason == reason and refused.value.message
    assert f'asr_offers_refused_total{{reason="{reason}"}} 1.0' in hub._metrics.render().decode()


def test_a_server_that_shuts_down_says_so():
    hub = make_hub(FakeLoop())

    async def refuse_while_shutting_down() -> Refused:
        closing = asyncio.create_task(hub.shut_down(timeout_seconds=1.0))
        await asyncio.sleep(0)  # let it begin
        refusal = hub.refusal()
        await closing
        return refusal

    assert asyncio.run(refuse_while_shutting_down()).reason == "shutting_down"
