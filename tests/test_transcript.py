"""Hypotheses into text: stable text never changes, and nothing is said twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tokenizer import Tokenizer
from server.transcript import Transcript

WORDS = ["", "", "", "▁the", "▁cat", "▁sat", "▁on", "▁a", "▁mat", "s", ".", ",", "<0xC3>", "<0xA9>", "▁"]
TOKENIZER = Tokenizer(WORDS)
SURE, UNSURE = 0.0, -2.0


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(WORDS.index(piece) for piece in text.split())


def make(agreement: int = 2) -> Transcript:
    return Transcript(TOKENIZER, agreement)


def hear(transcript: Transcript, text: str, may_confirm: bool = True, log_prob: float = SURE) -> None:
    tokens = tokens_of(text)
    transcript.update(tokens, [log_prob] * len(tokens), may_confirm)


def stable_text(transcript: Transcript) -> str:
    return transcript.text[: transcript.stable]


def test_words_that_two_hypotheses_share_become_stable_but_for_the_last():
    transcript = make()
    hear(transcript, "▁the ▁cat")
    assert transcript.stable == 0
    hear(transcript, "▁the ▁cat ▁sat")
    assert (transcript.text, stable_text(transcript)) == ("the cat sat", "the")
    hear(transcript, "▁the ▁cat ▁sat ▁on")
    assert stable_text(transcript) == "the cat"
    assert transcript.draft[: transcript.forced] == tokens_of("▁the ▁cat"), "what is stable is forced from now on"


def test_no_half_word_and_no_bare_punctuation_becomes_stable():
    transcript = make()
    hear(transcript, "▁cat s ▁sat")
    hear(transcript, "▁cat ▁sat ▁on")
    assert transcript.stable == 0, "cat or cats is open"
    hear(transcript, "▁cat , ▁sat")
    hear(transcript, "▁cat , ▁sat ▁on")
    assert stable_text(transcript) == "cat,"


def test_words_the_model_doubts_do_not_become_stable():
    transcript = make()
    for _ in range(5):
        hear(transcript, "▁the ▁cat ▁sat", log_prob=UNSURE)
    assert transcript.stable == 0


def test_hypotheses_past_a_possible_cut_confirm_nothing():
    transcript = make()
    hear(transcript, "▁the ▁cat ▁sat", may_confirm=False)
    hear(transcript, "▁the ▁cat ▁sat", may_confirm=False)
    assert transcript.stable == 0


def test_more_agreement_can_be_asked_for():
    transcript = make(agreement=3)
    hear(transcript, "▁the ▁cat")
    hear(transcript, "▁the ▁cat")
    assert transcript.stable == 0
    hear(transcript, "▁the ▁cat")
    assert stable_text(transcript) == "the"
    with pytest.raises(ValueError, match="at least 2"):
        make(agreement=1)


def test_a_committed_segment_is_stable_and_joined_with_a_space():
    transcript = make()
    transcript.commit(tokens_of("▁the ▁cat ."), 0, 1000, rest_follows=False)
    hear(transcript, "▁a ▁mat")
    assert transcript.text == "the cat. a mat" and stable_text(transcript) == "the cat."
    assert [(each.text, each.start_ms, each.end_ms) for each in transcript.segments] == [("the cat.", 0, 1000)]


def test_behind_a_cut_through_speech_the_rest_stays_in_sight():
    transcript = make()
    hear(transcript, "▁the ▁cat ▁sat ▁on ▁a")
    transcript.commit(tokens_of("▁the ▁cat ▁sat ."), 0, 1000, rest_follows=True)
    assert transcript.text == "the cat sat. on a" and stable_text(transcript) == "the cat sat."
    assert transcript.draft == tokens_of("▁on ▁a") and transcript.forced == 0


def test_an_empty_segment_leaves_no_trace():
    transcript = make()
    transcript.commit((), 0, 1000, rest_follows=False)
    transcript.commit(tokens_of("▁cat"), 1000, 2000, rest_follows=False)
    assert transcript.text == "cat" and len(transcript.segments) == 1


def test_a_character_cut_off_in_its_bytes_is_not_shown_yet():
    transcript = make()
    hear(transcript, "▁cat <0xC3>")
    assert transcript.text == "cat"
    hear(transcript, "▁cat <0xC3> <0xA9>")
    assert transcript.text == "caté"


hypothesis_tokens = st.lists(st.integers(3, len(WORDS) - 1), max_size=12)
happening = st.one_of(
    st.tuples(st.just("update"), hypothesis_tokens, st.booleans(), st.booleans()),
    st.tuples(st.just("commit"), hypothesis_tokens, st.booleans(), st.just(True)),
)


@given(happenings=st.lists(happening, max_size=40), agreement=st.integers(2, 4))
def test_stable_text_never_changes_over_any_sequence_of_hypotheses(happenings, agreement):
    """As long as each hypothesis begins with what was forced, which decoding sees to."""
    transcript, stable = make(agreement), ""
    for kind, tokens, flag, sure in happenings:
        tokens = [*transcript.draft[: transcript.forced], *tokens]
        if kind == "update":
            transcript.update(tokens, [SURE if sure else UNSURE] * len(tokens), may_confirm=flag)
        else:
            transcript.commit(tokens, 0, 1, rest_follows=flag)
        assert stable_text(transcript).startswith(stable), f"{stable!r} became {stable_text(transcript)!r}"
        stable = stable_text(transcript)
