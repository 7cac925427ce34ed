"""What people repeat is kept; what the model repeats for ever is said once, and what was spoken behind it is heard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.accuracy import normalise
from benchmarks.harness.simulation import Simulation
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE
from server.stream.repetition import LONGEST_PHRASE_TOKENS, said_once
from tests.conftest import PROJECT

WORDS = PROJECT / "tests" / "data" / "words"
phrases = st.lists(st.integers(100, 999), min_size=1, max_size=LONGEST_PHRASE_TOKENS, unique=True)


@given(
    before=st.lists(st.integers(20, 90), max_size=10, unique=True),
    phrase=phrases,
    times=st.integers(2, 9),
    part=st.integers(0, 9),
)
def test_a_phrase_without_end_is_said_once(before, phrase, times, part):
    tokens = before + phrase * times + phrase[: min(part, len(phrase) - 1)]
    kept = said_once(tokens)
    assert kept is not None and kept <= len(before) + len(phrase)
    assert tokens[:kept] == (before + phrase)[:kept]


@given(st.lists(st.integers(3, 999), max_size=40, unique=True))
def test_what_does_not_repeat_has_not_run_away(tokens):
    assert said_once(tokens) is None


@pytest.mark.parametrize("times", [6, 9])
def test_a_word_that_is_said_again_and_again_is_kept_with_what_follows_it(fp32, clips, times):
    """One word so many times, then a sentence."""
    please = audio_file.load(WORDS / "00_slt.flac")[300 * 16 : 870 * 16]
    pause = np.zeros(int(0.12 * SAMPLE_RATE), np.int16)
    sentence = next(clip for clip in clips if clip.name == "15_rms")
    audio = np.concatenate([*[please, pause] * times, sentence.samples])
    text = normalise(Simulation(fp32.engine, fp32.tokenizer).run(audio))
    assert text.split().count("please") >= times - 1
    assert text.endswith(normalise(sentence.text))
