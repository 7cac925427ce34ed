"""Fillers, profanity and replacements."""

import pytest

from server.stream.formatting.options import Replacement
from server.stream.formatting.rules import apply_all
from server.stream.formatting.words import FillerRule, ProfanityRule, ReplacementRule


def rewritten(rule, text: str) -> str:
    return " ".join(piece.text for piece in apply_all([rule], text.split(), is_closed=True))


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("Um, I think so, uh, yes, um.", "I think so, yes."),
        ("I um know", "I know"),
        ("Uh um what", "What"),
        ("Um, yes, um.", "Yes."),
        ("Um.", ""),
        ("umbrella uhuru", "umbrella uhuru"),
    ],
)
def test_fillers_go_and_the_sentence_keeps_its_capital_and_its_end(said, written):
    assert rewritten(FillerRule(), said) == written


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("What the fuck, man!", "What the ****, man!"),
        ("Bullshit. Goddamn it", "********. ******* it"),
        (
            "The assistant passes classes in Scunthorpe, hello Dickens",
            "The assistant passes classes in Scunthorpe, hello Dickens",
        ),
    ],
)
def test_profane_words_become_asterisks_and_no_parts_of_others(said, written):
    assert rewritten(ProfanityRule(), said) == written


def test_the_longest_of_several_phrases_is_replaced_and_its_punctuation_stays():
    rule = ReplacementRule([Replacement("new", "old"), Replacement("New York", "NYC"), Replacement("please", "")])
    assert rewritten(rule, "A new New York, please.") == "A old NYC,"
