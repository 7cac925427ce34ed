"""Speech begins and ends where the levels say so."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from server.stream.events import SpeechStarted, SpeechStopped
from server.stream.turns import LEVEL_MS, Turns


def turns_of(loud: list[bool], silence_seconds: float = 0.5) -> list:
    return list(Turns(silence_seconds).receive(loud))


def test_speech_begins_with_its_first_sound_and_ends_with_its_last():
    loud = [False] * 10 + [True] * 20 + [False] * 30
    assert turns_of(loud) == [SpeechStarted(10 * LEVEL_MS), SpeechStopped(30 * LEVEL_MS)]


def test_a_click_is_no_speech():
    assert turns_of([False] * 10 + [True] * 2 + [False] * 30) == []


def test_a_pause_that_is_shorter_than_the_silence_ends_nothing():
    loud = [True] * 10 + [False] * 20 + [True] * 10
    assert [type(event) for event in turns_of(loud)] == [SpeechStarted]
    assert [type(event) for event in turns_of(loud, 0.3)] == [SpeechStarted, SpeechStopped, SpeechStarted]


@given(st.lists(st.booleans(), max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_beginnings_and_ends_alternate_in_order_however_the_levels_come(loud, cuts):
    events = turns_of(loud, 0.1)
    assert [type(event) for event in events] == [(SpeechStarted, SpeechStopped)[index % 2] for index in range(len(events))]
    times = [event.at_ms for event in events]
    assert times == sorted(times)
    turns, pieces = Turns(0.1), [loud[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(loud)])]
    assert [event for piece in pieces for event in turns.receive(piece)] == events


def test_times_count_from_the_stream_s_beginning_whenever_turns_are_asked_for():
    """They used to count from when turn detection was switched on, or its silence changed."""
    turns = Turns(0.5, levels=100)
    assert list(turns.receive([True] * 20 + [False] * 30)) == [SpeechStarted(100 * LEVEL_MS), SpeechStopped(120 * LEVEL_MS)]
