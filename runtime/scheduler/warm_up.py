"""The first request of an engine: everything that loads on first use is loaded before a client comes."""

import numpy as np

from runtime.audio import SAMPLE_RATE, Clip
from runtime.scheduler.requests import Priority, Request

REQUEST_ID = -1  # sessions count from 0


def warm_up_request(seconds: float) -> Request:
    """Return a request that transcribes and aligns noise of this length, with a draft: every network of the engine runs once."""
    samples = np.random.default_rng(0).integers(-3000, 3000, int(seconds * SAMPLE_RATE), dtype=np.int16)
    draft = (5, 6, 7, 8)
    return Request(REQUEST_ID, "warm-up", Clip(samples), draft=draft, priority=Priority.FINAL, end_bias=50.0, align=True)
