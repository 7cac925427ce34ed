"""Which replica takes a new session."""

import random

from hypothesis import given
from hypothesis import strategies as st

from server.ray.placement import MARGIN_SECONDS, Load, ranked

COUNTS = st.tuples(st.integers(0, 50), st.integers(1, 50))


@given(st.lists(COUNTS, min_size=1, max_size=8), st.integers())
def test_all_replicas_are_ranked_once_and_the_less_full_of_two_is_first(counts, seed):
    loads = [Load(sessions, places) for sessions, places in counts]
    order = ranked(loads, random.Random(seed))
    assert sorted(order) == list(range(len(loads)))
    assert len(order) < 2 or loads[order[0]].share <= loads[order[1]].share or loads[order[1]].share >= 1
    assert (loads[order[0]].share < 1) == any(load.share < 1 for load in loads), "never a full one where another has room"


@given(st.lists(st.floats(0, 10), max_size=20), st.floats(0, 10))
def test_an_offer_counts_until_the_replica_has_counted_it(times, counted_at):
    load = Load()
    for now in sorted(times):
        load.sent(now)
    load.count(3, 10, counted_at)
    load.count(3, 10, counted_at)
    waiting = sum(now >= counted_at - MARGIN_SECONDS for now in times)
    assert load.share == (3 + waiting) / 10


def test_two_choices_leave_no_replica_far_behind_where_chance_would():
    """100 replicas, 1,000 sessions, counts that are never told again: what the router sent itself is enough."""
    loads, dice = [Load(places=20) for _ in range(100)], random.Random(1)
    for now in range(1000):
        loads[ranked(loads, dice)[0]].sent(float(now))
    assert max(load.share for load in loads) * 20 <= 13, "dealt out at random, the fullest has 19"
