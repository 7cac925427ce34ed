"""Numbers as people write them."""

import pytest

from server.stream.formatting.numerals import NumeralsRule
from server.stream.formatting.rules import apply_all


def numerals(text: str) -> str:
    return " ".join(piece.text for piece in apply_all([NumeralsRule()], text.split(), is_closed=True))


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("I have twenty-one people.", "I have 21 people."),
        ("two hundred and five of them", "205 of them"),
        ("one hundred thousand people", "100,000 people"),
        ("Five million dollars, please", "$5 million, please"),
        ("five dollars and twenty cents", "$5.20"),
        ("five dollars and twenty people", "$5 and 20 people"),
        ("two euros", "€2"),
        ("ninety nine percent of it", "99% of it"),
        ("three point one four", "3.14"),
        ("one point five million dollars", "$1.5 million"),
        ("it grew by one point two billion.", "it grew by 1.2 billion."),
        ("four-one-one-one", "4111"),
        ("nineteen-eighty-four", "1984"),
        ("five second delay", "5 second delay"),
        ("the twenty second of May", "the 22nd of May"),
        ("zero point five", "0.5"),
        ("a hundred people", "100 people"),
        ("half a million", "half a million"),
        ("in nineteen eighty four.", "in 1984."),
        ("in nineteen oh five", "in 1905"),
        ("two thousand twenty six", "2026"),
        ("May twenty third, twenty twenty six", "May 23rd, 2026"),
        ("the twenty first century", "the 21st century"),
        ("call me at five five five one two three four", "call me at 555-1234"),
        ("two one two five five five one two three four", "212-555-1234"),
        ("one eight hundred five five five one two three four", "1-800-555-1234"),
        ("the code is zero zero seven", "the code is 007"),
        ("double oh seven", "007"),
        ("room four one one", "room 411"),
        ("five, six, seven", "5, 6, 7"),
        ("one, two, three, four, five", "1, 2, 3, 4, 5"),
        ("the third, fourth and fifth", "the 3rd, 4th and 5th"),
        ("Nine, two, eight, one, eight, two, two, nine, five, nine.", "928-182-2959."),
        ("Three, zero, two, one.", "3021."),
        ("4 3 1 2 6 7 9 8", "43126798"),
        ("two and two is four", "2 and 2 is 4"),
    ],
)
def test_numbers_are_written_in_digits(said, written):
    assert numerals(said) == written


@pytest.mark.parametrize(
    "said",
    [
        "one of them has two cats",
        "wait a second",
        "give me one second please",
        "the sixty second rule",
        "one third of it",
        "two thirds and three quarters",
        "the first of June",
        "a day or two",
        "$5 million and 5 hundred",
        "5 2 golden rings",
        "I have 5 cats.",
        "no number at all",
        "someone and a half",
        "",
    ],
)
def test_small_numbers_alone_and_what_is_in_digits_stay(said):
    assert numerals(said) == said
