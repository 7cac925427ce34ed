"""What is said of real recordings is counted right, and what makes them harder does what it says."""

import dataclasses
import json
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import comparison, hard_audio, joined, scores, speech, speech_sets, word_confidence
from benchmarks.harness.accuracy import count_errors, normalise_as_spoken, spelled
from benchmarks.speech import Heard
from runtime.audio import SAMPLE_RATE

WORDS = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=8).map(" ".join)


def heard_of(set_name: str, file: str, reference: str, offline: str, streamed: str) -> Heard:
    return Heard(
        set_name,
        file,
        "",
        reference,
        offline,
        streamed,
        seconds=1.0,
        appeared_ms=(500.0,),
        stable_ms=(900.0,),
        unstable_words=0,
        violations=0,
        final_ms=100.0,
        requests=3,
        retries=0,
        compute_seconds=0.1,
    )


def heard_all(texts: list[tuple[str, str, str]]) -> list[Heard]:
    return [heard_of("set", str(number), *each) for number, each in enumerate(texts)]


@pytest.mark.parametrize(
    "written", ["I'm at 21 Main Street.", "i am at twenty-one main street", "I am at twenty one Main Street"]
)
def test_ways_to_write_the_same_words_are_the_same(written):
    assert normalise_as_spoken(written) == "i am at 2 1 main street"


def test_letters_are_compared_one_by_one_where_they_are_spelled():
    assert spelled("J P E G 4") == spelled("jpeg four")


@given(WORDS, WORDS)
def test_errors_are_those_of_an_alignment(reference, hypothesis):
    errors, words = count_errors(reference, hypothesis)
    assert words == len(reference.split())
    assert abs(words - len(hypothesis.split())) <= errors <= max(words, len(hypothesis.split()))
    assert (errors == 0) == (reference == hypothesis)


@settings(max_examples=20)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS, WORDS), min_size=2, max_size=6))
def test_a_score_lies_in_its_interval_and_a_run_does_not_differ_from_itself(texts):
    heard = heard_all(texts)
    found = scores.score("set", heard)
    assert found.streamed.low <= found.streamed.value <= found.streamed.high or len(set(texts)) > 1
    assert found.difference.value == pytest.approx(found.streamed.value - found.offline.value, abs=0.02)
    same = scores.pair(heard, heard)[0]
    assert (same.difference.value, same.better, same.worse) == (0.0, 0, 0)


def test_runs_are_compared_clip_by_clip():
    before = heard_all([("one two", "", "one"), ("three", "", "three"), ("four", "", "four")])
    now = heard_all([("one two", "", "one two"), ("three", "", "four")])
    (pair,) = scores.pair(before, now)
    assert (pair.clips, pair.words, pair.better, pair.worse) == (2, 3, 1, 1)


def test_results_are_read_back_as_they_were_written(tmp_path):
    heard = heard_all([("one", "one", "two")])
    line = {"benchmark": "speech", "condition": "as recorded", "clips": [dataclasses.asdict(each) for each in heard]}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    assert comparison.read_heard(tmp_path / "results.jsonl") == {"as recorded": heard}


@given(st.integers(1, 90), st.integers(0, 99))
@settings(max_examples=20)
def test_pieces_of_a_long_recording_are_all_of_it(seconds, seed):
    samples = np.random.default_rng(seed).integers(-999, 999, seconds * SAMPLE_RATE).astype(np.int16)
    pieces = list(speech.pieces(samples))
    assert np.array_equal(np.concatenate(pieces), samples)
    assert all(len(piece) <= speech.LONGEST_PIECE_SECONDS[1] * SAMPLE_RATE for piece in pieces)


ROOM = np.concatenate([[1.0], np.zeros(800), [0.5]])


@pytest.mark.parametrize("name", hard_audio.conditions([ROOM]))
def test_audio_made_harder_is_still_that_audio(name):
    """Of about its length, not silent, not the same, and the same every time."""
    times = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    clip = speech_sets.Clip("set", "a", (8000 * np.sin(2 * np.pi * 300 * times)).astype(np.int16), "text")
    change = hard_audio.conditions([ROOM])[name]
    (once,), (again,) = speech_sets.changed([clip], change), speech_sets.changed([clip], change)
    assert np.array_equal(once.samples, again.samples) and not np.array_equal(once.samples, clip.samples)
    assert len(clip.samples) * 0.75 <= len(once.samples) <= len(clip.samples) * 1.3
    assert np.abs(once.samples.astype(int)).max() > 20


@pytest.mark.parametrize("snr_db", hard_audio.SNRS_DB)
def test_noise_has_the_level_it_is_named_for(snr_db):
    samples = np.sin(np.arange(SAMPLE_RATE) / 9) / 4
    added = hard_audio.noisy(snr_db, samples, np.random.default_rng(0)) - samples
    assert 20 * np.log10(hard_audio.rms(samples) / hard_audio.rms(added)) == pytest.approx(snr_db, abs=0.5)


def test_halves_share_no_clip_and_miss_none(tmp_path):
    directory = tmp_path / "read"
    directory.mkdir()
    entries = [{"file": f"{number}.wav", "text": str(number)} for number in range(5)]
    (directory / "manifest.json").write_text(json.dumps(entries))
    for entry in entries:
        with wave.open(str(directory / entry["file"]), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(bytes(3200))
    even, odd = (speech_sets.load(tmp_path, "read", half) for half in ("even", "odd"))
    assert [clip.text for clip in even] == ["0", "2", "4"] and [clip.text for clip in odd] == ["1", "3"]
    assert speech_sets.names_in(tmp_path) == ["read"]


def test_errors_are_counted_near_the_cuts_and_elsewhere():
    clip = speech_sets.Clip("joined", "joined", np.zeros(10 * SAMPLE_RATE, np.int16), "one two three four five six")
    words = [{"w": word, "end_ms": 1500 * number} for number, word in enumerate(["One", "two,", "tree", "five", "six"], start=1)]
    final = {"segments": [{"end_ms": 4000}, {"end_ms": 9000}], "words": words}
    found = joined.count(clip, final)
    assert (found.cuts, found.words_near, found.errors_near) == (1, 2, 2), "three became tree, and four behind it was lost"
    assert (found.words_elsewhere, found.errors_elsewhere) == (3, 0)


def test_joined_clips_are_as_long_as_was_asked_and_have_all_their_texts():
    clips = [speech_sets.Clip("set", str(number), np.ones(SAMPLE_RATE, np.int16), f"word{number}") for number in range(3)]
    clip = joined.join(clips, 20.0)
    assert 20 <= len(clip.samples) / SAMPLE_RATE <= 23
    assert np.count_nonzero(clip.samples) == SAMPLE_RATE * len(clip.text.split())


def test_each_word_is_judged_by_the_reference_with_numbers_as_they_are_spoken():
    words = ("Fifty", "cats", "-", "sat.")
    heard = dataclasses.replace(heard_of("set", "1", "50 cats lay", "", ""), words=words, confidences=(0.9, 0.8, 0.1, 0.3))
    assert word_confidence.judged_words(heard) == [True, True, None, False]
    confidences, right = word_confidence.judged([heard])
    assert confidences.tolist() == [0.9, 0.8, 0.3] and right.tolist() == [True, True, False]
    assert word_confidence.judged_words(dataclasses.replace(heard, reference="")) == [False, False, None, False]


@given(st.integers(0, 99))
def test_confidence_that_is_true_has_no_calibration_error_and_the_fit_finds_it(seed):
    random = np.random.default_rng(seed)
    confidences = random.uniform(0, 1, 20_000)
    right = random.uniform(0, 1, 20_000) < confidences
    assert word_confidence.expected_calibration_error(word_confidence.reliability(confidences, right)) < 0.02
    points = word_confidence.fitted(confidences, right)
    assert [share for _, share in points] == sorted(share for _, share in points)
    assert all(abs(at - share) < 0.05 for at, share in points[1:-1])
    wrong = word_confidence.reliability(np.full(1000, 0.9), np.zeros(1000, bool))
    assert abs(word_confidence.expected_calibration_error(wrong) - 0.9) < 1e-9
