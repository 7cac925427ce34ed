"""Secrets are masked, and what is none is shown."""

import pytest

from server.stream.formatting.numerals import NumeralsRule
from server.stream.formatting.options import Replacement, Secret
from server.stream.formatting.redaction import DigitGroup, EmailRule, NumberRedactionRule, TextBefore
from server.stream.formatting.rules import apply_all, decided_by
from server.stream.formatting.words import ReplacementRule

CARD_AND_SSN = frozenset([Secret.CARD, Secret.SSN])


def redacted(
    text: str, *secrets: Secret, before: tuple[DigitGroup, ...] | None = (), is_cut_after: bool = False, is_closed: bool = True
) -> str:
    rules = [NumberRedactionRule(frozenset(secrets), TextBefore(before), is_cut_after), EmailRule()]
    if Secret.EMAIL not in secrets:
        rules.pop()
    return " ".join(piece.text for piece in apply_all(rules, text.split(), is_closed))


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("my card is 4111 1111 1111 1111.", "my card is [CREDIT_CARD]."),
        ("it is 4111-1111-1111-1111 okay", "it is [CREDIT_CARD] okay"),
        ("four one one one um, one one one one, and one one one one one one one one", "[CREDIT_CARD]"),
        ("four triple one double one one one one one one one one one double one", "[CREDIT_CARD]"),
        ("four, one, one, one. one one one for 1 1 1 1, 1 1 1 1", "four, one, one, one. one one one for 1 1 1 1, 1 1 1 1"),
        ("my card is four five six for, 1111 1111 11 to one", "my card is [CREDIT_CARD]"),
        ("four one one one, 1111 1111 1111 twelve twenty eight", "[CREDIT_CARD]"),
        ("my card is 4111 1111 1111 1112.", "my card is 4111 1111 1111 1112."),
        ("amex 3782 822463 10005. One moment", "amex [CREDIT_CARD] moment"),
        ("card 2: 3782 822463 10005", "card [CREDIT_CARD]"),
        ("4111 - 1111 – 1111 ... 1111", "[CREDIT_CARD]"),
        ("visa4111111111111111 okay", "[CREDIT_CARD] okay"),
        ("four-one-one-one one-one-one-one 1111 1111", "[CREDIT_CARD]"),
        ("for one one one one one one one one one one one one one one won", "for [CREDIT_CARD] won"),
        ("(4111) (1111) (1111) (1111)", "[CREDIT_CARD]"),
        ("4111 1111 1111 111² okay", "4111 1111 1111 111² okay"),
        ("the security code on the back is 123 okay", "the security code on the back is [CREDIT_CARD] okay"),
        ("expiry oh five twenty six", "expiry [CREDIT_CARD]"),
        ("my number is 123-45-6789. One moment please", "my number is [SSN] moment please"),
        ("123 45 6789 and two kids", "[SSN] kids"),
        ("oh four one two two three four five six okay", "[SSN] okay"),
        ("seven one six two four four six seven one four", "seven one six two four four six seven one four"),
        ("the cvv is 123 and", "the cvv is [CREDIT_CARD] and"),
        ("it expires twelve twenty eight", "it expires [CREDIT_CARD]"),
        ("my number is 123-45-6789", "my number is [SSN]"),
        ("one two three forty five sixty seven eighty nine", "[SSN]"),
        ("666 45 6789 is none", "666 45 6789 is none"),
        ("nor is 123 00 6789", "nor is 123 00 6789"),
        ("call 555 1234 in 1984", "call 555 1234 in 1984"),
    ],
)
def test_cards_by_their_check_digit_and_social_security_numbers_by_their_ranges(said, written):
    assert redacted(said, *CARD_AND_SSN) == written


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        (Secret.LONG_NUMBER, "room [NUMBER] has 12 beds from nine to five"),
        (Secret.ANY_NUMBER, "room [NUMBER] has [NUMBER] beds from [NUMBER]"),
    ],
)
def test_numbers_by_length(secret, written):
    assert redacted("room four one one has 12 beds from nine to five", secret) == written


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("mail jo at gmail dot com now", "mail [EMAIL_ADDRESS] now"),
        ("jo dot smith@example.org, please", "[EMAIL_ADDRESS], please"),
        ("j o h n underscore s at x dot co dot uk please", "[EMAIL_ADDRESS] please"),
        ("at gmail dot com", "[EMAIL_ADDRESS]"),
        ("meet me at home", "meet me at home"),
        ("where is she at", "where is she at"),
        ("jo@example.org's", "[EMAIL_ADDRESS]"),
        ("write <jo@example.org> or mailto:bo@example.org", "write [EMAIL_ADDRESS] or [EMAIL_ADDRESS]"),
        ("jo@ example.org now", "[EMAIL_ADDRESS] now"),
        ("jo seven seven at gmail dot com", "[EMAIL_ADDRESS]"),
        ("jo@example dot org okay", "[EMAIL_ADDRESS] okay"),
    ],
)
def test_addresses_written_and_said(said, written):
    assert redacted(said, Secret.EMAIL) == written


def test_a_number_that_may_go_on_is_masked_until_that_is_known():
    assert redacted("my card is four one one", *CARD_AND_SSN, is_closed=False) == "my card is [NUMBER]"
    assert redacted("my card is four one one", *CARD_AND_SSN, is_cut_after=True) == "my card is [NUMBER]"
    assert redacted("my card is four one one", *CARD_AND_SSN, is_cut_after=False) == "my card is four one one"
    assert redacted("I have four", *CARD_AND_SSN, is_cut_after=True) == "I have four"
    assert [piece.text for piece in decided_by([EmailRule()], ["mail", "jo"])] == ["mail"]


@pytest.mark.parametrize(
    "number", ["100mph", "12345lbs", "five-five-five", "forty-one-eleven", "one-hundred-and-five", "nineteen-eighty-four"]
)
def test_however_the_model_writes_a_long_number_it_is_masked(number):
    assert redacted(f"it is {number} now", Secret.LONG_NUMBER) == "it is [NUMBER] now"


def test_no_other_rule_changes_a_mask():
    rules = [
        NumberRedactionRule(frozenset([Secret.LONG_NUMBER]), TextBefore()),
        EmailRule(),
        NumeralsRule(),
        ReplacementRule([Replacement("number", "No.")]),
    ]
    found = apply_all(rules, ["room", "411,", "jo@example.org", "555."], is_closed=True)
    assert " ".join(piece.text for piece in found) == "room [NUMBER], [EMAIL_ADDRESS] [NUMBER]."


def test_digits_after_audio_that_is_not_known_are_masked():
    assert redacted("one one okay", Secret.LONG_NUMBER, before=None) == "[NUMBER] okay"


def test_a_number_goes_on_from_the_segment_before():
    half = "one one one one one one one one"
    assert redacted(f"{half} okay", Secret.CARD, before=(DigitGroup("41111111", True),)) == "[CREDIT_CARD] okay"
    assert redacted(f"{half} okay", Secret.CARD, before=(DigitGroup("41111112", True),)) == f"{half} okay"
    assert redacted(f"{half} okay", Secret.CARD, before=None) == "[NUMBER] okay"
