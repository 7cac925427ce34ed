"""Speech begins and ends where the levels say so, and ends earlier where the evidence does."""

import itertools

from hypothesis import assume, given
from hypothesis import strategies as st

from server.stream.events import SpeechStarted, SpeechStopped, TurnPause
from server.stream.loudness import LEVEL_SAMPLES
from server.stream.turn_end import NO_EVIDENCE, PauseEvidence, TextEvidence, probability_of_end
from server.stream.turns import COVERED_SAMPLES, LEVEL_MS, TurnRule, Turns

FINISHED = TextEvidence(ends_sentence=False, end_log_prob=0.0, belief=0.0)
CUT_OFF = TextEvidence(ends_sentence=True, end_log_prob=-3.0, belief=-2.0)
EVIDENCE = st.builds(
    PauseEvidence,
    st.none() | st.builds(TextEvidence, st.booleans(), st.floats(-50, 0), st.floats(-50, 0)),
    st.none() | st.floats(0, 1),
)


def turns_of(loud: list[bool], silence_seconds: float = 0.5) -> list[tuple[type, int]]:
    return [(type(event), event.at_ms) for event in Turns(TurnRule(silence_seconds)).receive(loud)]


def test_speech_begins_with_its_first_sound_and_ends_with_its_last():
    loud = [False] * 10 + [True] * 20 + [False] * 30
    assert turns_of(loud) == [(SpeechStarted, 10 * LEVEL_MS), (SpeechStopped, 30 * LEVEL_MS)]


def test_a_click_is_no_speech():
    assert turns_of([False] * 10 + [True] * 2 + [False] * 30) == []


def test_a_pause_that_is_shorter_than_the_silence_ends_nothing():
    loud = [True] * 10 + [False] * 20 + [True] * 10
    assert [kind for kind, _ in turns_of(loud)] == [SpeechStarted]
    assert [kind for kind, _ in turns_of(loud, 0.3)] == [SpeechStarted, SpeechStopped, SpeechStarted]


@given(st.lists(st.booleans(), max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_beginnings_and_ends_alternate_in_order_however_the_levels_come(loud, cuts):
    events = turns_of(loud, 0.1)
    assert [kind for kind, _ in events] == [(SpeechStarted, SpeechStopped)[index % 2] for index in range(len(events))]
    times = [at_ms for _, at_ms in events]
    assert times == sorted(times)
    turns, pieces = Turns(TurnRule(0.1)), [loud[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(loud)])]
    assert [(type(event), event.at_ms) for piece in pieces for event in turns.receive(piece)] == events


def test_times_count_from_the_stream_s_beginning_whenever_turns_are_asked_for():
    """They used to count from when turn detection was switched on, or its silence changed."""
    turns = Turns(None)
    assert list(turns.receive([True] * 100)) == []
    turns.change(TurnRule(0.5))
    found = [event.at_ms for event in turns.receive([True] * 20 + [False] * 30)]
    assert found == [100 * LEVEL_MS, 120 * LEVEL_MS]


# Evidence


def silence_until_the_end(evidence: PauseEvidence, rule: TurnRule) -> int:
    """Levels of silence until the turn ends, with this evidence from 0.2 s on."""
    turns = Turns(rule)
    list(turns.receive([True] * 10 + [False] * 10))
    turns.evidence = evidence
    found = (levels for levels in range(11, 1000) if any(isinstance(each, SpeechStopped) for each in turns.receive([False])))
    return next(found)


def test_a_turn_ends_earlier_after_what_is_finished_and_later_after_what_is_cut_off():
    rule = TurnRule(5.0, threshold=0.7)
    alone = silence_until_the_end(NO_EVIDENCE, rule)
    finished = silence_until_the_end(PauseEvidence(FINISHED, 0.99), rule)
    cut_off = silence_until_the_end(PauseEvidence(CUT_OFF, 0.01), rule)
    assert finished < alone < cut_off <= 250
    assert silence_until_the_end(PauseEvidence(CUT_OFF, 0.01), TurnRule(0.5, threshold=0.7)) == 25, "the longest silence holds"


@given(EVIDENCE, st.lists(st.floats(0, 60), min_size=2, max_size=9))
def test_the_probability_is_one_and_grows_with_the_silence(evidence, seconds):
    found = [probability_of_end(each, evidence) for each in sorted(seconds)]
    assert found == sorted(found) and all(0 <= each <= 1 for each in found)


@given(EVIDENCE, st.floats(0, 3), st.floats(0, 1), st.floats(0, 1))
def test_the_more_the_sound_says_that_it_is_over_the_more_probable_it_is(evidence, seconds, less, more):
    assume(less <= more)
    found = [probability_of_end(seconds, PauseEvidence(evidence.text, sound)) for sound in (less, more)]
    assert found[0] <= found[1]


def test_each_pause_is_reported_with_its_silence_and_judged_once():
    turns, loud = Turns(TurnRule(1.0, reports_pauses=True)), [True] * 10 + [False] * 30
    events = []
    judged = []
    for is_loud in loud + loud:
        events += turns.receive([is_loud])
        if (pause := turns.pause_to_judge()) is not None:
            judged.append(pause)
    reports = [event for event in events if isinstance(event, TurnPause)]
    assert [event.silence_ms for event in reports] == [200, 300, 400, 500, 600] * 2 and judged == [10, 50]
    assert [event.at_ms for event in reports] == [200] * 5 + [1000] * 5
    probabilities = [event.probability for event in reports[:5]]
    assert probabilities == sorted(probabilities)


def test_evidence_about_a_pause_that_is_over_is_not_taken():
    turns = Turns(TurnRule(1.0, threshold=0.7))
    list(turns.receive([True] * 10 + [False] * 15))
    pause = turns.pause_to_judge()
    turns.take_text(10 * LEVEL_SAMPLES + COVERED_SAMPLES - 1, FINISHED)
    assert turns.wants_text, "that text covers no more than what was said"
    turns.take_text(10 * LEVEL_SAMPLES + COVERED_SAMPLES, FINISHED)
    turns.take_sound(pause, 0.9)
    assert turns.evidence == PauseEvidence(FINISHED, 0.9) and not turns.wants_text
    list(turns.receive([True] * 10 + [False] * 15))
    turns.take_sound(pause, 0.1)
    assert turns.evidence == NO_EVIDENCE and turns.wants_text


def test_a_click_after_speech_is_no_pause_to_judge():
    turns = Turns(TurnRule(0.3, weighs_pauses=True))
    list(turns.receive([True] * 10 + [False] * 40))
    assert turns.pause_to_judge() == 10
    list(turns.receive([True] + [False] * 40))
    assert turns.pause_to_judge() is None and not turns.wants_text
    list(turns.receive([True] * 10 + [False] * 40))
    assert turns.pause_to_judge() == 101


def test_levels_that_are_measured_again_or_never_move_no_time():
    turns = Turns(TurnRule(0.5))
    list(turns.receive([True] * 20 + [False] * 5, 25))
    assert [event.at_ms for event in turns.receive([False] * 25, 47)] == [20 * LEVEL_MS], "three were measured again"
    assert [event.at_ms for event in turns.receive([True] * 5, 60)] == [55 * LEVEL_MS], "eight were never measured"


def test_where_silence_alone_decides_nothing_more_is_asked_for():
    turns = Turns(TurnRule(1.0))
    list(turns.receive([True] * 10 + [False] * 20))
    assert turns.pause_to_judge() is None and not turns.wants_text
