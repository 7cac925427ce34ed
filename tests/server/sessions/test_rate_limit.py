"""Who sends faster than a client needs to is read more slowly; nobody else notices."""

from hypothesis import given
from hypothesis import strategies as st

from server.sessions.rate_limit import BURST_SECONDS, MESSAGES_A_SECOND, SPEED, RateLimit


def take(limit: RateLimit, audio_seconds: float, now: float) -> None:
    limit.count(now, 1, audio_seconds)


def test_a_client_that_speaks_owes_nothing():
    limit = RateLimit(0.0)
    for number in range(10_000):
        take(limit, 0.02, number * 0.02)
        assert limit.share(number * 0.02) < 0.01


def test_minutes_at_once_are_taken_and_hours_are_not():
    limit = RateLimit(0.0)
    for _ in range(300):
        take(limit, 1.0, 0.0)
    assert limit.share(0.0) <= 1.0 < share_after(limit, 3600.0)


def share_after(limit: RateLimit, audio_seconds: float) -> float:
    take(limit, audio_seconds, 0.0)
    return limit.share(0.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=200))
def test_in_the_long_run_no_more_is_taken_than_may_be(messages):
    """A sender that waits while it is too fast has sent, at any time, what the time allows and one burst, and one message."""
    limit, now, audio_seconds = RateLimit(0.0), 0.0, 0.0
    for number, (audio, wait) in enumerate(messages, 1):
        now += wait + max(0.0, limit.share(now + wait) - 1) * BURST_SECONDS
        take(limit, audio, now)
        audio_seconds += audio
        assert audio_seconds / SPEED <= now + BURST_SECONDS + 2 / SPEED + 1e-6
        assert number / MESSAGES_A_SECOND <= now + BURST_SECONDS + 2 / SPEED + 1e-6


def test_changes_cost_more_than_other_messages():
    limit = RateLimit(0.0)
    limit.count(0.0, messages=10, audio_seconds=0.0, changes=10)
    assert limit.share(0.0) < 1.0, "ten at once are nothing unusual"
    limit.count(0.0, messages=30, audio_seconds=0.0, changes=30)
    assert limit.share(0.0) > 1.0


def test_long_text_without_audio_costs_the_time_that_it_takes_to_parse():
    limit = RateLimit(0.0)
    for _ in range(2):
        limit.count(0.0, 1, 0.0, 20 * 1024 * 1024)
    assert limit.share(0.0) < 1.0
    limit.count(0.0, 1, 0.0, 20 * 1024 * 1024)
    assert limit.share(0.0) > 1.0
