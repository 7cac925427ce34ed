"""Keyterms of every API: taken, or refused by name when they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.apis import terms
from server.errors import ClientError
from server.stream.terms import DEFAULT_BOOST, Term

TEXTS = st.text() | st.sampled_from(["", " ", "Ocado", "a\nb", "\ud800", "x" * 200, "北京", "Straße", "\u202eabc", "C++"])
TERMS = st.builds(Term, TEXTS, st.floats() | st.sampled_from([-1.0, 0.0, 1e9, float("nan"), 2.0]))


@given(st.lists(TERMS, max_size=20))
def test_any_terms_are_taken_or_a_client_error_that_names_them(asked):
    try:
        found = terms.checked(asked, "keyterms")
    except ClientError as error:
        assert error.parameter == "keyterms" and error.message
    else:
        texts = [term.text for term in found]
        assert len(set(texts)) == len(texts) and all(text == " ".join(text.split()) and text.isprintable() for text in texts)
        assert all(0 < term.boost <= terms.MOST_BOOST for term in found)


@pytest.mark.parametrize(
    "asked", [[Term("x" * 101)], [Term("a\0b")], [Term("a", -1.0)], [Term("a", float("nan"))], [Term("a", 1e9)]]
)
def test_what_cannot_be_a_term_is_refused(asked):
    with pytest.raises(ClientError):
        terms.checked(asked, "keyterms")


def test_ten_thousand_terms_are_refused_and_the_same_one_as_often_is_one():
    with pytest.raises(ClientError, match="200 terms at most"):
        terms.checked((Term(f"term {number}") for number in range(10_000)), "keyterms")
    assert terms.checked([Term("Ocado"), Term(" Ocado "), Term("")] * 5_000, "keyterms") == (Term("Ocado"),)


def test_terms_are_bounded_together_for_their_tokens_take_time():
    long = [Term(f"{number:03} {'x' * 90}") for number in range(120)]
    with pytest.raises(ClientError, match="10,000 characters at most"):
        terms.checked(long, "keyterms")
    texts = [term.text for term in long]
    for found in (terms.usable(texts), [term.text for term in terms.with_prompt((), ", ".join(texts), "keywords")]):
        assert found == texts[: terms.MOST_CHARACTERS_TOGETHER // len(texts[0])]


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("", []),
        ("The talk is about Ocado, Kubernetes and the M5 of Anthropic.", ["Ocado", "Kubernetes", "M5", "Anthropic"]),
        ("Hello, welcome to my lecture.", []),
        ("Umm, let me think like, hmm... Okay, here's what I'm, like, thinking.", []),
        ("Ocado, Kubernetes, machine learning", ["Ocado", "Kubernetes", "machine learning"]),
        ("hello world this is plain text", []),
        ("It begins. Then it goes on with iPhone and C3PO!", ["iPhone", "C3PO"]),
        ("Jean-Luc O'Neill\nAT&T", ["Jean-Luc", "O'Neill", "AT&T"]),
        ("We met Mr Smith.Then we left", ["Mr", "Smith.Then"]),
    ],
)
def test_names_and_unusual_words_of_a_prompt_are_terms(prompt, names):
    assert [term.text for term in terms.with_prompt((), prompt, "keywords")] == names


@given(st.text(max_size=400))
def test_no_prompt_is_an_error(prompt):
    found = terms.with_prompt([Term("Ocado", 3.0)], prompt, "keywords")
    assert found[0] == Term("Ocado", 3.0) and terms.checked(found, "keywords") == found


def test_a_prompt_of_a_megabyte_gives_as_many_terms_as_there_may_be():
    prompt = " ".join(f"and Name{number}" for number in range(100_000))
    found = terms.with_prompt([], prompt, "keywords")
    assert len(found) == terms.MOST_TERMS and found[0] == Term("Name0", DEFAULT_BOOST)


def test_of_what_a_client_cannot_do_without_the_usable_terms_are_taken():
    asked = ["Ocado", 5, None, "", "x" * 101, "a\nb", "Ocado", *(f"term {number}" for number in range(300))]
    found = terms.usable(asked)
    assert found[0] == "Ocado" and len(found) == terms.MOST_TERMS
    assert terms.checked(map(Term, found), "keyterms")
