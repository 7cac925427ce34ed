"""Rules that rewrite text: what they have decided stays, whatever follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.stream.formatting.numerals import NumeralsRule
from server.stream.formatting.options import Replacement, Secret
from server.stream.formatting.redaction import DigitGroup, EmailRule, NumberRedactionRule, TextBefore
from server.stream.formatting.rules import apply, apply_all, decided_by, pieces_of
from server.stream.formatting.words import FillerRule, ProfanityRule, ReplacementRule

WORDS = [
    *("zero", "one", "two", "three", "five", "Nineteen", "twenty", "twenty-one", "eighty", "hundred", "thousand", "million"),
    *("third", "and", "point", "oh", "double", "a", "half", "dollars", "cents", "percent", "4111", "7", "555-1234", "$5", "3.14"),
    *("um", "Uh", "new", "york", "city", "damn", "jo", "s", "at", "dot", "com", "gmail.com", "jo@example.org", "underscore"),
    *("cvv", "the", "cats", "I", "four", "noon", "one-one-one", "-", "for", "second", "555", "()", "gmail"),
]
TEXTS = st.lists(st.builds(str.__add__, st.sampled_from(WORDS), st.sampled_from(["", "", "", ",", ".", "?"])), max_size=12)
REPLACEMENTS = [
    Replacement("new york", "NYC"),
    Replacement("New York city", "the city"),
    Replacement("cats", ""),
    Replacement("a", "b"),
]
RULES = {
    "numerals": NumeralsRule(),
    "fillers": FillerRule(),
    "profanity": ProfanityRule(),
    "replacements": ReplacementRule(REPLACEMENTS),
    "numbers": NumberRedactionRule(
        frozenset(Secret), TextBefore((DigitGroup("1", True), DigitGroup("2", False))), is_cut_after=True
    ),
    "cards": NumberRedactionRule(frozenset([Secret.CARD, Secret.SSN]), TextBefore(None), is_cut_after=False),
    "emails": EmailRule(),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@given(words=TEXTS, more=TEXTS, is_closed=st.booleans())
def test_what_a_rule_has_decided_stays_whatever_follows(rule, words, more, is_closed):
    before = apply(rule, pieces_of(words), is_closed=False)
    after = apply(rule, pieces_of(words + more), is_closed)
    assert after.pieces[: before.decided] == before.pieces[: before.decided]
    assert is_closed or after.decided >= before.decided


@given(st.permutations(list(RULES.values())), TEXTS, TEXTS, st.booleans())
def test_what_rules_have_decided_together_stays_whatever_follows(rules, words, more, is_closed):
    decided = decided_by(rules, words)
    assert apply_all(rules, words + more, is_closed)[: len(decided)] == decided


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@given(words=TEXTS)
def test_pieces_stand_for_words_in_order_and_each_word_once(rule, words):
    spans = [(piece.first, piece.end) for piece in apply(rule, pieces_of(words), is_closed=True).pieces]
    assert all(first < end <= len(words) for first, end in spans)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@given(words=st.lists(st.text(min_size=1, max_size=6).filter(str.split), max_size=5))
def test_any_text_is_taken(rule, words):
    for is_closed in (False, True):
        apply(rule, pieces_of(words), is_closed)
