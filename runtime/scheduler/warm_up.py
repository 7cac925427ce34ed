"""The first request of an engine: what loads when it is first asked for loads before a client comes."""

import asyncio

import numpy as np

from runtime.audio import SAMPLE_RATE, Clip
from runtime.exceptions import EngineError
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.requests import Priority, Request, Result

REQUEST_ID = -1  # sessions count from 0


async def warm_up(engine_loop: EngineLoop, seconds: float) -> EngineError | None:
    """Transcribe noise of this length and align it. Returns the error, if any."""
    loop = asyncio.get_running_loop()
    samples = np.random.default_rng(0).integers(-3000, 3000, int(seconds * SAMPLE_RATE), dtype=np.int16)
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result) -> None:
        if not done.done():  # the waiting task may have been cancelled: the server is ending
            done.set_result(result)

    request = Request(
        REQUEST_ID, "warm-up", Clip(samples), draft=(5, 6, 7, 8), priority=Priority.FINAL, end_bias=50.0, align=True
    )
    engine_loop.submit(request, lambda result: loop.call_soon_threadsafe(settle, result))
    return (await done).error
