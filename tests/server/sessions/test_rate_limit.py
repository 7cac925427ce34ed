"""Who sends faster than a client needs to is read more slowly; nobody else notices."""

from hypothesis import given
from hypothesis import strategies as st

from server.sessions.rate_limit import BURST_SECONDS, MESSAGES_A_SECOND, SPEED, Pace


def test_a_client_that_speaks_owes_nothing():
    pace = Pace(0.0)
    for number in range(10_000):
        pace.take(0.02, number * 0.02)
        assert pace.share(number * 0.02) < 0.01


def test_minutes_at_once_are_taken_and_hours_are_not():
    pace = Pace(0.0)
    for _ in range(300):
        pace.take(1.0, 0.0)
    assert pace.share(0.0) <= 1.0 < share_after(pace, 3600.0)


def share_after(pace: Pace, audio_seconds: float) -> float:
    pace.take(audio_seconds, 0.0)
    return pace.share(0.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=200))
def test_in_the_long_run_no_more_is_taken_than_may_be(messages):
    """A sender that waits while it is too fast has sent, at any time, what the time allows and one burst, and one message."""
    pace, now, audio_seconds = Pace(0.0), 0.0, 0.0
    for number, (audio, wait) in enumerate(messages, 1):
        now += wait + max(0.0, pace.share(now + wait) - 1) * BURST_SECONDS
        pace.take(audio, now)
        audio_seconds += audio
        assert audio_seconds / SPEED <= now + BURST_SECONDS + 2 / SPEED + 1e-6
        assert number / MESSAGES_A_SECOND <= now + BURST_SECONDS + 2 / SPEED + 1e-6
