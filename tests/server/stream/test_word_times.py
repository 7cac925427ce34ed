"""Word times: true, in order, inside the audio, and free for those who do not ask."""

import difflib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.accuracy import normalise
from benchmarks.harness.simulation import Simulation
from moonshine_client import audio_file
from runtime.audio import SAMPLES_PER_FRAME, Clip
from runtime.scheduler.alignment import LEAST_SHARE, first_frames
from runtime.tokenizer import Tokenizer
from server.stream.confidence import word_confidence
from server.stream.word_times import fit_pauses, locate, stream_position
from tests.conftest import PROJECT

KNOWN = PROJECT / "tests" / "data" / "words"
TOLERANCE_MS = 120
TOKENIZER = Tokenizer(["", "", "", "▁one", "▁two", "ty", "▁", ","])


def best_by_trying(share: np.ndarray) -> float:
    """The most that the logarithms of the shares can add up to, over all ways to deal the frames out."""
    tokens, frames = share.shape
    gains = np.log(share + LEAST_SHARE)
    return max(
        sum(gains[token, first:last].sum() for token, (first, last) in enumerate(itertools.pairwise((0, *inner, frames))))
        for inner in itertools.combinations(range(1, frames), tokens - 1)
    )


@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 999))
def test_frames_are_dealt_out_in_the_best_way_there_is(tokens, more, seed):
    share = np.random.default_rng(seed).dirichlet(np.ones(tokens + more) / 3, size=tokens).astype(np.float32)
    limits = first_frames(share)
    assert limits[0] == 0 and limits[-1] == tokens + more
    assert all(first < last for first, last in itertools.pairwise(limits))
    found = sum(
        np.log(row[first:last] + LEAST_SHARE).sum()
        for row, (first, last) in zip(share, list(itertools.pairwise(limits)), strict=True)
    )
    assert found == pytest.approx(best_by_trying(share), abs=1e-3)


def test_more_tokens_than_frames_are_still_in_order():
    assert first_frames(np.ones((4, 2), np.float32)) == (0, 0, 1, 1, 2)


STRETCHES = st.lists(st.integers(1, 30_000), min_size=1, max_size=8).map(
    lambda steps: [(first, last) for first, last in itertools.pairwise(itertools.accumulate([0, *steps]))][::2]
)  # what is heard, with gaps between


SURE = (0.0, 0.0)


def clip_of(heard: list[tuple[int, int]], quiet_before: int = 0) -> Clip:
    return Clip(np.zeros(heard[-1][1], np.int16), ranges=tuple(heard), quiet_before=quiet_before)


@given(STRETCHES, STRETCHES, st.lists(st.sampled_from([3, 4, 5, 6]), min_size=1, max_size=12), st.data())
def test_words_are_in_order_and_inside_what_was_heard(heard, pauses, tokens, data):
    frames = sum(last - first for first, last in heard) // SAMPLES_PER_FRAME
    inner = sorted(data.draw(st.lists(st.integers(0, frames), min_size=len(tokens) - 1, max_size=len(tokens) - 1)))
    count, end = sum(token != 5 for token in tokens[1:]) + 1, max(heard[-1][1], pauses[-1][1])
    words = locate(tokens, [-0.1] * len(tokens), (0, *inner, frames), TOKENIZER, clip_of(heard), pauses).words(
        TOKENIZER, count, end
    )
    times = [time for word in words for time in (word.start_ms, word.end_ms)]
    assert times == sorted(times)
    assert all(0 <= time <= end // 16 for time in times)
    assert " ".join(word.w for word in words).split() == TOKENIZER.text(tokens).split()


def test_a_position_between_two_stretches_belongs_to_the_side_that_is_meant():
    heard = [(1000, 1400), (5000, 5600)]
    assert stream_position(heard, 399) == 1399
    assert stream_position(heard, 400) == 5000 and stream_position(heard, 400, is_end=True) == 1400
    assert stream_position(heard, 2000) == 5600, "past the end is the end"


def test_a_pause_is_the_gap_between_the_words_beside_it():
    limits = [0, 16_000, 40_000]
    assert fit_pauses(limits, [(12_000, 15_000)])[1] == (12_000, 15_000), "nearer than 200 ms"
    assert fit_pauses(limits, [(4_000, 12_000)])[1] == (16_000, 16_000), "farther: it is in the middle of a word"
    assert fit_pauses(limits, [(13_500, 15_000), (17_000, 20_000)])[1] == (13_500, 15_000), (
        "the nearer of two, the first of equals"
    )


def test_the_end_of_a_clip_is_no_end_of_a_word_unless_a_pause_is_there():
    heard, frames = [(0, 16_000)], (0, 20, 41)
    unbroken = locate((3, 4), SURE, frames, TOKENIZER, clip_of(heard), [])
    assert len(unbroken.between_words) == 2 and unbroken.words_before(16_000) == 2
    ended = locate((3, 4), SURE, frames, TOKENIZER, clip_of(heard), [(14_000, 16_000)])
    assert ended.between_words[-1] == 15_000


def test_silence_before_a_clip_moves_no_word():
    heard, quiet_frames = [(0, 16_000)], 5
    plain = locate((3, 4), SURE, (0, 20, 41), TOKENIZER, clip_of(heard), [])
    later = locate(
        (3, 4), SURE, (0, 20 + quiet_frames, 41 + quiet_frames), TOKENIZER, clip_of(heard, quiet_frames * SAMPLES_PER_FRAME), []
    )
    assert later.gaps == plain.gaps


@given(st.lists(st.floats(-20.0, 0.0), min_size=4, max_size=4))
def test_a_word_is_as_sure_as_its_least_likely_piece(log_probs):
    """Punctuation is no piece of it."""
    tokens = (3, 7, 4, 5)
    words = locate(tokens, log_probs, (0, 5, 10, 15, 20), TOKENIZER, clip_of([(0, 16_000)]), []).words(TOKENIZER, 2, 16_000)
    assert [word.w for word in words] == ["one,", "twoty"] and all(0.0 <= word.confidence <= 1.0 for word in words)
    for word, pieces in zip(words, pieces_of(tokens, log_probs), strict=True):
        assert word.confidence == word_confidence(pieces)


def pieces_of(tokens, log_probs) -> list[list[float]]:
    found: list[list[float]] = []
    for token, log_prob in zip(tokens, log_probs, strict=True):
        if TOKENIZER.starts_word(token) or not found:
            found.append([])
        if not TOKENIZER.is_punctuation(token):
            found[-1].append(log_prob)
    return found


@given(st.floats(-30.0, 0.0), st.floats(-30.0, 0.0))
def test_a_likelier_word_is_never_less_confident(first, second):
    low, high = sorted((first, second))
    assert word_confidence([low]) <= word_confidence([high]) <= 1.0


def test_word_times_are_near_the_truth_where_it_is_known(fp32):
    """Words synthesised one by one and joined at known times."""
    differences = []
    for entry in json.loads((KNOWN / "manifest.json").read_text()):
        simulation = Simulation(fp32.engine, fp32.tokenizer, words=True)
        simulation.run(audio_file.load(KNOWN / entry["file"]))
        found, known = simulation.messages[-1][1]["words"], entry["words"]
        matcher = difflib.SequenceMatcher(
            None, *([normalise(word["w"]) for word in words] for words in (found, known)), autojunk=False
        )
        for block in matcher.get_matching_blocks():
            for ours, theirs in zip(found[block.a : block.a + block.size], known[block.b : block.b + block.size], strict=True):
                differences += [abs(ours[side] - theirs[side]) for side in ("start_ms", "end_ms")]
    assert len(differences) >= 90, "of 52 words nearly all are understood"
    print(f"word times: median {np.median(differences):.0f} ms off, 95% within {np.percentile(differences, 95):.0f} ms")
    assert np.percentile(differences, 95) <= TOLERANCE_MS


def test_the_words_of_a_stream_are_its_text_in_order_and_inside_its_segments(fp32, recordings):
    simulation = Simulation(fp32.engine, fp32.tokenizer, words=True)
    text = simulation.run(recordings["mid"].samples)
    final = simulation.messages[-1][1]
    assert " ".join(word["w"] for word in final["words"]) == text
    assert final["words"] == [word for segment in final["segments"] for word in segment["words"]]
    for segment in final["segments"]:
        times = [time for word in segment["words"] for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times) and segment["start_ms"] <= times[0] and times[-1] <= segment["end_ms"]
        assert all(word["start_ms"] < word["end_ms"] for word in segment["words"])


def test_words_that_nobody_asked_for_cost_nothing(fp32, recordings, monkeypatch):
    def refuse(slot, tokens):
        raise AssertionError("aligned without being asked")

    monkeypatch.setattr(fp32.engine, "align", refuse)
    simulation = Simulation(fp32.engine, fp32.tokenizer)
    simulation.run(recordings["short"].samples)
    assert not any(result.request.align for result in simulation.results)
    final = simulation.messages[-1][1]
    assert "words" not in final and "words" not in final["segments"][0]
