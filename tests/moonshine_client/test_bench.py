"""The search for how many live streams a machine carries, and where the server is if nobody says."""

import io
import math

import pytest
from rich.console import Console

from moonshine_client import bench
from moonshine_client.addresses import default_server
from moonshine_client.bench import Trial


def found(carried: int, start: int) -> list[int]:
    def run(streams: int) -> Trial:
        return Trial(streams, 100.0 if streams <= carried else 900.0, 200.0, failed=0)

    return [trial.streams for trial in bench.search(run, start, Console(file=io.StringIO()))]


@pytest.mark.parametrize(
    ("carried", "start", "tried"),
    [(16, 16, [16, 20]), (1, 1, [1, 2]), (100, 8, [8, 10, 12]), (10, 16, [16, 12, 9]), (0, 1, [1]), (9, 0, [1, 2, 3])],
)
def test_counts_go_up_while_they_hold_and_down_until_one_does(carried, start, tried):
    assert found(carried, start) == tried


@pytest.mark.parametrize(
    ("trial", "holds"),
    [
        (Trial(4, 500.0, 1000.0, 0), True),
        (Trial(4, 501.0, 10.0, 0), False),
        (Trial(4, 10.0, 1001.0, 0), False),
        (Trial(4, 10.0, 10.0, 1), False),
        (Trial(4, math.inf, math.inf, 4), False),
    ],
)
def test_a_count_holds_by_its_worst_figure(trial, holds):
    assert trial.holds is holds


def test_95_percent_of_nothing_is_late():
    assert bench.p95([]) == math.inf and bench.p95([7.0]) == 7.0 and bench.p95(list(range(101))) == 95


@pytest.mark.parametrize(
    ("variables", "server"),
    [
        ({}, "127.0.0.1:8000"),
        ({"ASR_PORT": "9000"}, "127.0.0.1:9000"),
        ({"ASR_HOST": "0.0.0.0", "ASR_PORT": "9000"}, "127.0.0.1:9000"),
        ({"ASR_HOST": "asr.example.com"}, "asr.example.com:8000"),
        ({"ASR_HOST": "::1", "ASR_PORT": "9000"}, "[::1]:9000"),
        ({"ASR_SERVER": "asr.example.com:443", "ASR_PORT": "9000"}, "asr.example.com:443"),
    ],
)
def test_clients_know_the_server_by_its_own_variables(variables, server):
    assert default_server(variables) == server
