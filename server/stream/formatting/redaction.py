"""Replaces secrets by their names. A number that may still become a secret is masked until it is known not to be one.

Card numbers are recognised by their check digit (ISO/IEC 7812-1, the Luhn formula), social security numbers by the ranges that
are issued (SSA, "Social Security Number Randomization").
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.stream.formatting.options import Secret
from server.stream.formatting.rules import Piece, Rewriting, masked, pieces_of
from server.stream.formatting.spoken_numbers import (
    FILLERS,
    HOMOPHONES,
    REPEATS,
    ZEROS,
    Number,
    is_number_word,
    is_written,
    numbers_in,
    starts_number,
)

NUMERIC = frozenset([Secret.CARD, Secret.SSN, Secret.LONG_NUMBER, Secret.ANY_NUMBER])
CARD_DIGITS = range(13, 20)
USUAL_CARD_DIGITS = (15, 16)
SSN_DIGITS = 9
LONG_DIGITS = 3
KEPT_DIGITS = 2
"""Digits at the end of closed text that are shown although more may follow: so few reveal nothing of a secret."""
MOST_PARTS_BEFORE = 19  # of a number that continues from the segment before
GLUE = {"and", "point", "dash", "hyphen", "space", "dot"} | FILLERS | set(HOMOPHONES)
CODE_NAMES = re.compile(r"\b(cvv2?|cvc2?|(security|verification) (code|number|value)|exp(ir\w*)?|valid (until|thru|through))\b")
NAME_REACH = 12  # words before a number that may name its kind
EMAIL = re.compile(r"[\w.+'-]+@[\w-]+(\.[\w-]+)*")
DOMAIN = re.compile(r"[\w-]+(\.[\w-]+)+")
MOST_ADDRESS_WORDS = 50  # also if it is spelled letter by letter
BETWEEN = {"dot", "period", "underscore", "dash", "hyphen", "plus", "minus"}  # parts of an address as people say it
MASKED_UNKNOWN = Secret.LONG_NUMBER.mask


@dataclass(frozen=True, slots=True)
class DigitGroup:
    """The digits of one number of a run."""

    digits: str
    is_apart: bool
    """True if something separates it from the part before: the end of a sentence, a word, or several digits in one of both."""


@dataclass(frozen=True)
class TextBefore:
    """The end of the text before a segment, as far as it matters for the beginning of the segment."""

    parts: tuple[DigitGroup, ...] | None = ()
    """The number that it ends with; None if the text is not known."""
    words: tuple[str, ...] = ()
    """Its last words, plain."""

    def after(self, said: Sequence[str]) -> "TextBefore":
        """Return the text before the next segment. said: the words of this one."""
        pieces = pieces_of(said)
        words = (*self.words, *(piece.plain for piece in pieces))[-NAME_REACH:]
        return TextBefore(self._parts_after(pieces), words)

    def _parts_after(self, pieces: Sequence[Piece]) -> tuple[DigitGroup, ...] | None:
        for at in range(len(pieces)):
            if starts_run(pieces, at) and end_of_run(pieces, at) == len(pieces):
                found = parts_of(pieces[at:], with_homophones=True)
                if not is_glue(pieces[:at]):
                    return found
                return None if self.parts is None else (*self.parts, *found)[-MOST_PARTS_BEFORE:]
        return self.parts if is_glue(pieces) else ()


class NumberRedactionRule:
    """Masks numbers. A run of number words is checked as a whole, together with the digits right before it."""

    def __init__(self, secrets: frozenset[Secret], before: TextBefore, is_cut_after: bool = True):
        """Make a rule for one segment. is_cut_after: whether the speaker may go on after the end of the segment."""
        self._secrets = secrets & NUMERIC
        self._before, self._is_cut_after = before, is_cut_after

    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        if not starts_run(pieces, at):
            return None
        end = end_of_run(pieces, at)
        run = pieces[at:end]
        if end == len(pieces) and not is_closed:
            return Rewriting(len(run), (masked(MASKED_UNKNOWN, run),), is_decided=False)
        numbers = numbers_in(run)
        mask = self._mask(pieces, at, end) if numbers else ""
        spoken = numbers[-1].end if mask else 0
        return Rewriting(len(run), (masked(mask, run[:spoken]), *run[spoken:]) if mask else tuple(run))

    def _mask(self, pieces: Sequence[Piece], at: int, end: int) -> str:
        """Return the text that replaces the numbers of a run; empty if they are shown."""
        before = self._before.parts if is_glue(pieces[:at]) else ()
        words = [*self._before.words, *(piece.plain for piece in pieces[max(0, at - NAME_REACH) : at])]
        found = {Secret.CARD} & self._secrets if CODE_NAMES.search(" ".join(words[-NAME_REACH:])) else set()
        plain = (*(before or ()), *parts_of(pieces[at:end]))
        read = (*(before or ()), *parts_of(pieces[at:end], with_homophones=True))
        found |= secrets_in(plain, self._secrets)
        found |= secrets_in(read, self._secrets - {Secret.LONG_NUMBER})  # "nine to five" is no long number
        if at and (first := HOMOPHONES.get(pieces[at - 1].plain)):
            found |= secrets_in((DigitGroup(first, True), *read), self._secrets & {Secret.CARD, Secret.SSN})
        if found:
            return min(found, key=list(Secret).index).mask
        may_be_part = before is None or (end == len(pieces) and self._is_cut_after)
        return MASKED_UNKNOWN if may_be_part and self._may_become_secret(before, digits_of(read)) else ""

    def _may_become_secret(self, before: tuple[DigitGroup, ...] | None, digits: str) -> bool:
        if before is None and Secret.LONG_NUMBER in self._secrets:
            return True
        return len(digits) > KEPT_DIGITS and not self._secrets.isdisjoint({Secret.CARD, Secret.SSN})


def starts_run(pieces: Sequence[Piece], at: int) -> bool:
    word = pieces[at].plain
    if word in ZEROS:
        return not pieces[at].marks and (at + 1 == len(pieces) or is_number(pieces[at + 1].plain))
    return is_number(word)


def is_number(word: str) -> bool:
    return starts_number(word) or is_written(word) or word in REPEATS


def end_of_run(pieces: Sequence[Piece], at: int) -> int:
    end = at + 1
    while end < len(pieces) and is_part(pieces[end].plain):
        end += 1
    return end


def is_glue(pieces: Sequence[Piece]) -> bool:
    """True if a number may continue across these words."""
    return all(is_between(piece.plain) for piece in pieces)


def is_between(word: str) -> bool:
    """True for a word, or a dash, that may stand within a number."""
    return word in GLUE or not any(map(str.isalnum, word))


def is_part(word: str) -> bool:
    return is_number_word(word) or is_written(word) or word in REPEATS or word in ZEROS or is_between(word)


def parts_of(run: Sequence[Piece], with_homophones: bool = False) -> tuple[DigitGroup, ...]:
    """Return the digits of a run's numbers, in order."""
    numbers = [number for number in numbers_in(run, with_homophones) if number.digits]
    return tuple(
        DigitGroup(number.digits, index == 0 or is_apart(run, *numbers[index - 1 : index + 1]))
        for index, number in enumerate(numbers)
    )


def is_apart(run: Sequence[Piece], before: Number, number: Number) -> bool:
    is_sentence_end = any(piece.ends_sentence for piece in run[before.first : number.first])
    return is_sentence_end or before.end != number.first or len(before.digits) > 1 or len(number.digits) > 1


def digits_of(parts: Sequence[DigitGroup]) -> str:
    return "".join(part.digits for part in parts)


def secrets_in(parts: Sequence[DigitGroup], secrets: frozenset[Secret]) -> set[Secret]:
    """Return the kinds of secrets that a number is or contains. parts: the digits of its numbers, in order."""
    digits = digits_of(parts)
    found = {Secret.ANY_NUMBER} if digits else set()
    if len(digits) >= LONG_DIGITS:
        found.add(Secret.LONG_NUMBER)
    if Secret.SSN in secrets and any(map(is_ssn, windows(parts, (SSN_DIGITS,)))):
        found.add(Secret.SSN)
    if Secret.CARD in secrets and any(map(is_card, card_windows(parts, digits))):
        found.add(Secret.CARD)
    return found & secrets


def card_windows(parts: Sequence[DigitGroup], digits: str) -> Iterator[str]:
    """Yield the digits that may be a card number. In a long run of single digits it may begin anywhere."""
    yield from windows(parts, CARD_DIGITS)
    if len(digits) > USUAL_CARD_DIGITS[-1]:
        yield from windows([DigitGroup(part.digits, True) for part in parts], USUAL_CARD_DIGITS)


def windows(parts: Sequence[DigitGroup], lengths: Sequence[int]) -> Iterator[str]:
    """Yield the digits of neighbouring parts with one of these total lengths that are apart from the parts around them."""
    for first, part in enumerate(parts):
        digits = ""
        for index in range(first, len(parts) if part.is_apart else first):
            digits += parts[index].digits
            if len(digits) > lengths[-1]:
                break
            if len(digits) in lengths and (index + 1 == len(parts) or parts[index + 1].is_apart):
                yield digits


def is_card(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return digits.strip("0") != "" and sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def is_ssn(digits: str) -> bool:
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


class EmailRule:
    """Masks addresses: jo@example.org, "jo at example.org", "jo dot smith at example dot org".

    Words that may begin an address are not shown until the next word shows that they do not.
    """

    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        words = [piece.plain for piece in pieces[at : at + MOST_ADDRESS_WORDS]]
        length = address_length(words, begins_text=at == 0)
        if length is None:
            is_known = is_closed or len(words) == MOST_ADDRESS_WORDS
            return None if is_known else Rewriting(len(words), (), is_decided=False)
        if not length:
            return None
        is_decided = is_closed or length < len(words) or length == MOST_ADDRESS_WORDS
        return Rewriting(length, (masked(Secret.EMAIL.mask, pieces[at : at + length]),), is_decided)


def address_length(words: Sequence[str], begins_text: bool) -> int | None:
    """Return the number of words of the address that a text begins with; 0 if there is none, None if more words must decide.

    begins_text: True if its first part may have been spoken before the text.
    """
    if begins_text and words[0] == "at":
        domain = domain_length(words[1:])
        return domain and domain + 1
    local = local_length(words)
    if local is None:
        return None
    if EMAIL.search(words[local - 1]):
        return after_dots(words, local)
    if words[local - 1].endswith("@"):
        domain = domain_length(words[local:])
        return domain and local + domain
    if local == len(words) or words[local] not in ("at", "@"):
        return 0
    domain = domain_length(words[local + 1 :])
    return domain and local + 1 + domain


def local_length(words: Sequence[str]) -> int | None:
    """Return the number of words before "at", or up to the word that contains "@"; None if more words are needed."""
    at = 0
    while at < len(words):
        if "@" in words[at] and words[at] != "@":
            return at + 1
        if at + 1 == len(words):
            return None
        if words[at + 1] in BETWEEN:
            at += 2
        elif is_spelled(words[at], words[at + 1]):
            at += 1
        else:
            return at + 1
    return None


def is_spelled(word: str, following: str) -> bool:
    """True if both are parts of one name: letters one by one, or digits after it."""
    return len(word) == len(following) == 1 or is_number_word(following) or following.isdecimal()


def domain_length(words: Sequence[str]) -> int | None:
    """Return the number of words of a domain with a dot in it; 0 if there is none, None if more words are needed."""
    if not words:
        return None
    length = after_dots(words, 1)
    if length is None or (length == 1 == len(words) and not DOMAIN.fullmatch(words[0])):
        return None
    return length if length > 1 or DOMAIN.fullmatch(words[0]) else 0


def after_dots(words: Sequence[str], at: int) -> int | None:
    """Return the number of words up to the end of parts such as "dot com" after the first `at` words; None if more are needed."""
    while at < len(words) and words[at] == "dot":
        if at + 1 == len(words):
            return None
        at += 2
    return at
