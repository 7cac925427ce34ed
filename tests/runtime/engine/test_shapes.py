"""Rows are put together as cheaply as they can be."""

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.shapes import BATCHES, cheapest_runs, smallest, within_counts, within_slots

LENGTHS = (1, 8, 16, 32, 64)


def least_cost(rows: Sequence, cost: Callable[[Sequence], float]) -> float:
    """Of all ways to split rows, in their order: every one is looked at."""
    best = [0.0]
    for end in range(1, len(rows) + 1):
        best.append(min(best[start] + cost(rows[start:end]) for start in range(end)))
    return best[-1]


@given(
    st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=80).map(sorted), st.integers(0, 2000), st.sampled_from((4, 32, 256))
)
def test_rows_that_are_counted_are_split_at_the_least_cost(lengths, pass_cost, most):
    batches = [batch for batch in BATCHES if batch <= most]

    def cost(rows: Sequence[int]) -> float:
        return pass_cost + smallest(batches, len(rows)) * rows[-1] if len(rows) <= most else float("inf")

    runs = cheapest_runs(lengths, batches, within_counts(len(lengths), batches), pass_cost)
    assert [index for first, end in runs for index in range(first, end)] == list(range(len(lengths)))
    assert sum(cost(lengths[first:end]) for first, end in runs) == least_cost(lengths, cost)


@given(st.data(), st.integers(1, 60), st.integers(0, 2000))
def test_rows_in_slots_are_split_at_the_least_cost(data, count, pass_cost):
    slots = data.draw(st.permutations(range(count + 20)))[:count]
    lengths = sorted(data.draw(st.lists(st.sampled_from(LENGTHS), min_size=count, max_size=count)))
    rows = list(zip(slots, lengths, strict=True))

    def cost(rows: Sequence[tuple[int, int]]) -> float:
        return pass_cost + smallest(BATCHES, max(slot for slot, _ in rows) + 1) * rows[-1][1]

    runs = cheapest_runs(lengths, BATCHES, within_slots(slots, BATCHES), pass_cost)
    assert [index for first, end in runs for index in range(first, end)] == list(range(count))
    assert sum(cost(rows[first:end]) for first, end in runs) == least_cost(rows, cost)
