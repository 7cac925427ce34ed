"""Drafts never change words: the same tokens as decoding one at a time, in fewer passes."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.audio import Clip
from runtime.scheduler.decoding import Decoding
from tests import greedy

START, END = 1, 2
tokens = st.lists(st.integers(3, 9), max_size=30)


def model_after(text: list[int]):
    """A model whose continuation depends on everything before it: it says `text`, and loses its way off the path."""

    def next_token(prefix: list[int]) -> int:
        if prefix == text[: len(prefix)]:
            return text[len(prefix)] if len(prefix) < len(text) else END
        return 3 + sum(prefix) % 7

    return next_token


def run(next_token, draft: list[int], forced: int, most: int) -> Decoding:
    decoding = Decoding(draft, forced, most, START, END)
    while not decoding.done:
        fed = decoding.next_tokens()
        assert len(decoding.tokens) + len(fed) <= most, "never feeds more than the limit has room for"
        prefixes = [decoding.tokens + list(fed[1 : count + 1]) for count in range(len(fed))]
        decoding.accept(fed, list(map(next_token, prefixes)), [-float(len(prefix)) for prefix in prefixes])
        assert decoding.passes <= most + 1, "every pass decides a token at least"
    return decoding


@given(text=tokens, draft=tokens, most=st.integers(1, 40))
def test_any_draft_gives_the_tokens_of_no_draft(text, draft, most):
    plain = run(model_after(text), [], 0, most)
    assert run(model_after(text), draft, 0, most).tokens == plain.tokens


@given(text=tokens, draft=tokens, most=st.integers(1, 40), data=st.data())
def test_forced_tokens_are_kept_whatever_the_model_says(text, draft, most, data):
    forced = data.draw(st.integers(0, len(draft)))
    assert run(model_after(text), draft, forced, most).tokens[:forced] == draft[: min(forced, most)]


@given(text=tokens, draft=tokens, most=st.integers(1, 40))
def test_a_result_is_cut_short_where_it_has_no_room_for_its_end(text, draft, most):
    decoding = run(model_after(text), draft, 0, most)
    assert decoding.tokens == text[:most]
    assert decoding.cut_short == (len(text) >= most)


@given(text=tokens, draft=tokens, most=st.integers(1, 40))
def test_each_token_and_the_end_have_the_log_probability_of_their_place(text, draft, most):
    decoding = run(model_after(text), draft, 0, most)
    assert decoding.log_probs == [-float(place) for place in range(len(decoding.tokens))]
    assert decoding.end_log_prob == (None if decoding.cut_short else -float(len(text)))


@given(text=st.lists(st.integers(3, 999), max_size=60), place=st.integers(0, 60), times=st.integers(1, 9))
def test_repeating_is_speech(text, place, times):
    spoken = text[:place] + text[place : place + 4] * times + text[place + 4 :]
    decoding = run(model_after(spoken), [], 0, 400)
    assert decoding.tokens == spoken and not decoding.cut_short


@given(text=st.lists(st.integers(3, 9_999), min_size=8, max_size=30, unique=True), data=st.data())
def test_one_edit_costs_a_few_passes_and_not_the_tail(text, data):
    place = data.draw(st.integers(1, len(text) - 3))
    edits = {
        "inserted": [*text[:place], 10_001, *text[place:]],
        "missing": [*text[:place], *text[place + 1 :]],
        "changed": [*text[:place], 10_001, *text[place + 1 :]],
    }
    for name, draft in edits.items():
        assert run(model_after(text), draft, 0, 99).passes <= 3, name


def test_a_right_draft_takes_one_pass():
    assert run(model_after([5, 6, 7]), [5, 6, 7], 0, 99).passes == 1


def test_without_a_draft_every_token_takes_a_single_step():
    decoding = run(model_after([5, 6, 7]), [], 0, 99)
    assert (decoding.passes, decoding.single_steps) == (4, 4)


def test_more_forced_tokens_than_the_draft_has_are_refused():
    with pytest.raises(ValueError, match="2 tokens are forced but the draft has 1"):
        Decoding([5], 2, 10, START, END)


def test_on_every_clip_every_draft_gives_the_same_tokens(fp32, clips, recordings):
    for clip in [*clips, recordings["short"]]:
        for name, plain, verified in with_every_draft(fp32.engine, Clip(clip.samples)):
            assert verified.tokens == plain.tokens, f"{clip.name}, draft {name}"


TIE = 0.1  # between the log-probabilities of two tokens: the one is at most a tenth likelier


def test_int8_drafts_change_nothing_but_near_ties(int8, clips):
    """Activations are rounded to 8 bits, so a sum taken in another order can tip a tie; it must be a tie."""
    for clip in clips:
        for name, plain, verified in with_every_draft(int8.engine, Clip(clip.samples)):
            differing = (i for i, (a, b) in enumerate(zip(plain.tokens, verified.tokens, strict=False)) if a != b)
            place = next(differing, None)
            if place is None:
                assert plain.tokens == verified.tokens, f"{clip.name}, draft {name}"
            else:
                assert abs(plain.log_probs[place] - verified.log_probs[place]) < TIE, f"{clip.name}, draft {name}"


def with_every_draft(engine, clip: Clip) -> Iterator[tuple[str, Decoding, Decoding]]:
    """The kind of draft, the plain decoding, and the one with that draft."""
    engine.encode([0], [clip])
    plain = greedy.decode_encoded(engine, clip)
    for name, draft in greedy.drafts_of(plain.tokens).items():
        yield name, plain, greedy.decode_encoded(engine, clip, draft)
    engine.free(0)
