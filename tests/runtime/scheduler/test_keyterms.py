"""Keyterms: the biases follow the tokens, and drafts never change words."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.protocol import MAX_BIASED_TOKENS, TokenBiases
from runtime.scheduler.decoding import Decoding
from runtime.scheduler.keyterms import NOTHING_BEGUN, REST_TOKENS, Keyterms, Spelling

START, END, VOCABULARY = 1, 2, 12
tokens = st.lists(st.integers(3, VOCABULARY - 1), max_size=20)
spellings = st.builds(
    Spelling,
    tokens=st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=4).map(tuple),
    boost=st.floats(0.1, 5),
    unbiased=st.integers(0, 2),
)
keyterms = st.lists(spellings, max_size=6).map(lambda each: Keyterms(tuple(each)))


def expected_biases(terms: Keyterms, said: Sequence[int]) -> dict[int, float]:
    """By the definition: of each beginning of a spelling that the tokens end with, the next token; of terms that were just said
    not the first."""
    found: dict[int, float] = {}
    just_said = [said[: len(said) - ago] for ago in range(REST_TOKENS)]
    resting = {each.tokens[0] for each in terms.spellings for end in just_said if ends_with(end, each.tokens)}
    for spelling in terms.spellings:
        for depth, token in enumerate(spelling.tokens, start=1):
            if depth <= spelling.unbiased:
                continue
            is_begun = ends_with(said, spelling.tokens[: depth - 1])
            if is_begun if depth > 1 else token not in resting:
                found[token] = max(found.get(token, 0.0), spelling.boost * (1 + math.log(depth - spelling.unbiased)))
    return found


def ends_with(said: Sequence[int], tokens: Sequence[int]) -> bool:
    return len(said) >= len(tokens) and tuple(said[len(said) - len(tokens) :]) == tuple(tokens)


def as_dict(biases: TokenBiases) -> dict[int, float]:
    return dict(zip(biases.tokens.tolist(), biases.values.tolist(), strict=True))


@given(terms=keyterms, said=tokens)
def test_the_next_token_of_each_term_that_is_begun_is_favoured(terms, said):
    found, expected = as_dict(terms.biases(terms.after(NOTHING_BEGUN, said))), expected_biases(terms, said)
    assert found.keys() == expected.keys() and all(math.isclose(found[token], expected[token], rel_tol=1e-6) for token in found)


@given(terms=keyterms, said=tokens, at=st.integers(0, 20))
def test_tokens_may_come_in_any_pieces_and_each_list_is_made_once(terms, said, at):
    whole, parts = terms.after(NOTHING_BEGUN, said), terms.after(terms.after(NOTHING_BEGUN, said[:at]), said[at:])
    assert whole == parts and terms.biases(whole) is terms.biases(parts)


@given(terms=keyterms, said=tokens)
def test_the_tokens_of_a_list_ascend_for_engines_search_in_them(terms, said):
    biases = terms.biases(terms.after(NOTHING_BEGUN, said))
    assert all(one < other for one, other in itertools.pairwise(biases.tokens.tolist()))
    assert biases.tokens.dtype == np.int64 and biases.values.dtype == np.float32


def test_of_too_many_tokens_at_one_place_those_with_the_highest_biases_are_kept():
    many = Keyterms(tuple(Spelling((token,), 1 + token / 10_000) for token in range(3, 3 + 2 * MAX_BIASED_TOKENS)))
    kept = many.biases(NOTHING_BEGUN).tokens
    assert kept.tolist() == list(range(3 + MAX_BIASED_TOKENS, 3 + 2 * MAX_BIASED_TOKENS))


def chosen(prefix: Sequence[int], biases: TokenBiases | None) -> int:
    """Return what a model says next whose logits are random and depend on everything before."""
    source = random.Random(repr(tuple(prefix)))
    logits = [source.gauss(0, 2) for _ in range(VOCABULARY)]
    if biases is not None:
        for token, value in as_dict(biases).items():
            logits[token] += value
    return max(range(2, VOCABULARY), key=logits.__getitem__)


def run(draft: Sequence[int], terms: Keyterms | None, most: int, forced: int = 0) -> list[int]:
    decoding = Decoding(draft, forced, most, START, END, terms)
    while not decoding.done:
        fed, biases = decoding.next_tokens(), decoding.next_biases()
        assert len(biases) == (0 if terms is None else len(fed))
        assert terms is None or not decoding.may_continue_unseen
        prefixes = [decoding.tokens + list(fed[1 : count + 1]) for count in range(len(fed))]
        choices = [chosen(prefix, each) for prefix, each in itertools.zip_longest(prefixes, biases)]
        decoding.accept(fed, choices, [0.0] * len(fed))
    return decoding.tokens


@given(terms=keyterms, draft=tokens, most=st.integers(1, 30), data=st.data())
def test_any_draft_gives_the_tokens_of_no_draft(terms, draft, most, data):
    plain = run([], terms, most)
    near = plain[: data.draw(st.integers(0, len(plain)))] + draft
    assert run(draft, terms, most) == run(near, terms, most) == plain


@given(terms=keyterms, draft=tokens, most=st.integers(1, 30))
def test_terms_that_are_begun_in_forced_tokens_go_on_after_them(terms, draft, most):
    said = run(draft, terms, most, forced=len(draft))
    kept = min(len(draft), most)
    for place in range(kept, len(said)):
        assert said[place] == chosen(said[:place], terms.biases(terms.after(NOTHING_BEGUN, said[:place])))


def test_without_terms_nothing_is_asked_of_the_engine():
    assert Decoding([5, 6], 0, 9, START, END).next_biases() == ()
