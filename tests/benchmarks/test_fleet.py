"""The simulation of many replicas, held against formulas; and the page that is made from it."""

import json

import pytest

from benchmarks import fleet, run, tables
from tests.conftest import PROJECT

RESULTS = PROJECT / "benchmarks" / "results" / "fleet.jsonl"
PLACES, REPLICAS = 12, 100


def erlang_b(places: int, load: float) -> float:
    """The share that finds all places taken (Erlang, 1917)."""
    blocked = 1.0
    for number in range(1, places + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def test_without_knowledge_each_replica_refuses_what_erlang_says():
    """Who is refused comes again once, so that more offers come than sessions."""
    offered = refused = fleet.LOAD * PLACES
    for _ in range(100):
        refused = erlang_b(PLACES, offered)
        offered = fleet.LOAD * PLACES * (1 + refused)
    found = fleet.place("any replica", REPLICAS, PLACES, seed=1)
    assert found.refused == pytest.approx(refused, abs=0.015)
    assert found.lost == pytest.approx(refused**2, abs=0.015)


def test_two_choices_refuse_less_than_any_other_that_knows_as_little():
    found = {name: fleet.place(name, REPLICAS, PLACES, seed=1, offers=5000) for name in fleet.POLICIES}
    assert min(found.values(), key=lambda each: each.refused).policy.startswith("two choices")


def test_places_are_counted_right_whatever_happens():
    import random

    counted = fleet.Fleet(3, 2, random.Random(1))
    assert [counted.take(0) for _ in range(3)] == [True, True, False] and counted.take(2)
    counted.leave()
    assert len(counted) == counted.counts.sum() == 2
    held = int(counted.counts[0])
    assert counted.lose(0) == held and len(counted) == counted.counts.sum() == 2 - held


def test_what_is_free_elsewhere_takes_those_of_a_replica_that_died_and_no_more():
    assert fleet.fail(10, 100, load=0.85, seed=1).waited == 0
    small = fleet.fail(3, 100, load=0.85, seed=1)
    assert small.waited == pytest.approx(1 - 2 * 0.15 / 0.85, abs=0.08) and small.seconds > 60


def test_a_scaler_that_is_fast_or_leaves_room_loses_nothing():
    assert fleet.grow("twice as many at once", 30, 0.7, seed=1).lost == 0
    assert fleet.grow("twice as many at once", 300, 0.85, seed=1).lost > 0.05


def test_the_benchmark_prints_and_draws_what_it_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fleet, "SEEDS", (1,))
    monkeypatch.setattr(fleet, "run", lambda progress: SIMULATE(progress, sizes=((4, 5),), offers=200))
    assert run.main(["fleet", "--out", str(tmp_path / "f.jsonl"), "--plot", str(tmp_path / "f.png")]) == 0
    assert "two choices" in capsys.readouterr().out and (tmp_path / "f.png").stat().st_size > 10_000
    again = fleet.Simulated.of(json.loads((tmp_path / "f.jsonl").read_text())["result"])
    assert {each.replicas for each in again.placed} == {4}


SIMULATE = fleet.run


def test_the_page_of_sizes_is_made_from_the_results():
    found = fleet.Simulated.of(json.loads(RESULTS.read_text().splitlines()[-1])["result"])
    page = (PROJECT / "docs" / "operations.md").read_text()
    for table in tables.fleet_tables(found):
        assert tables.as_markdown(table) in page, table.title
