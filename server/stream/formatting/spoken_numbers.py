"""Numbers in English text, in words or in digits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from text_to_num import Token, find_numbers

from server.stream.formatting.rules import Piece

UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", *(f"{ten}teen" for ten in ("thir", "four", "fif", "six", "seven", "eigh", "nine"))]
TENS = [f"{ten}ty" for ten in ("twen", "thir", "for", "four", "fif", "six", "seven", "eigh", "nine")]
SCALES = ["hundred", "thousand", "million", "billion", "trillion"]
IRREGULAR_ORDINALS = ["first", "second", "third", "fifth", "eighth", "ninth", "twelfth"]
ORDINALS = [
    *IRREGULAR_ORDINALS,
    *(f"{word}th" for word in [*UNITS, *TEENS, *SCALES]),
    *(f"{ten.removesuffix('y')}ieth" for ten in TENS),
]
STARTS = frozenset([*UNITS, *TEENS, *TENS, *ORDINALS])
NUMBER_WORDS = STARTS | frozenset(SCALES)
ZEROS = frozenset(["oh", "o"])  # words for zero between other digits
REPEATS = {"double": 2, "triple": 3}
HOMOPHONES = {"for": "4", "fore": "4", "to": "2", "too": "2", "ate": "8", "won": "1"}
"""Words that the model writes for digits in the middle of a long number."""
FILLERS = frozenset(["uh", "um", "er", "erm", "hmm", "mm"])
LAST_DAY = 31  # "the twenty second" is a day, "sixty second" a duration
KEEPS_EVERY_NUMBER = -1.0  # threshold of find_numbers: below it a number that stands alone stays a word


class PlainWord(Token):
    """A word as find_numbers reads it: a piece, or one part of a piece with hyphens."""

    def __init__(self, text: str, index: int, begins: bool):
        """index: index of the piece. begins: True if punctuation separates it from the word before."""
        self._text, self._begins = text, begins
        self.index = index

    def text(self) -> str:
        return self._text

    def nt_separated(self, previous: Token) -> bool:
        return self._begins


@dataclass(frozen=True, slots=True)
class Number:
    """A number within a run of pieces."""

    first: int
    """Index of its first piece."""
    end: int
    """Index after its last one."""
    text: str
    """Its digits, as written: 3.14, 21st, 500."""
    is_ordinal: bool = False

    @property
    def digits(self) -> str:
        return "".join(filter(str.isdecimal, self.text))


def is_number_word(word: str) -> bool:
    """True for a plain word that is part of a number: twenty, twenty-one, third, one-hundred-and-five."""
    first, *others = word.split("-")
    return first in NUMBER_WORDS and all(part in NUMBER_WORDS or part in ZEROS or part == "and" for part in others)


def starts_number(word: str) -> bool:
    return is_number_word(word) and word.split("-")[0] in STARTS


def is_written(word: str) -> bool:
    """True for a plain word with digits: 411, 555-1234, 3.14, $20, 21st."""
    return any(map(str.isdecimal, word))


def numbers_in(run: Sequence[Piece], with_homophones: bool = False) -> list[Number]:
    """Return the numbers of a run of pieces, in order.

    with_homophones: read a word such as "for" between numbers as a digit.
    """
    words = list(plain_words(run))
    found = [
        Number(words[each.start].index, words[each.end - 1].index + 1, each.text, each.is_ordinal)
        for each in find_numbers(words, "en", KEEPS_EVERY_NUMBER)
        if not any(is_written(word.text()) for word in words[each.start : each.end])
    ]
    found = list(scaled(ordinals_apart(joined_by_hyphens(found)), run))
    found = [part for index, each in enumerate(found) for part in split_hundreds(each, found[index + 1 :], run)]
    said = {index for each in found for index in range(each.first, each.end)}
    for index, piece in enumerate(run):
        if index not in said and (text := text_alone(run, index, piece)):
            found.append(Number(index, index + 1, text))
    if with_homophones:
        found += homophones_in(run, found)
    return sorted(found, key=lambda each: each.first)


def plain_words(run: Sequence[Piece]) -> Iterator[PlainWord]:
    for index, piece in enumerate(run):
        begins = index > 0 and bool(run[index - 1].marks)
        words = piece.plain.split("-") if is_number_word(piece.plain) else [piece.plain]
        for word in words:
            yield PlainWord(word, index, begins)
            begins = False


def joined_by_hyphens(numbers: Sequence[Number]) -> Iterator[Number]:
    """Yield the numbers, and join those that share a word: four-one-one."""
    found: list[Number] = []
    for number in numbers:
        if found and number.first < found[-1].end:
            last = found.pop()
            number = Number(last.first, number.end, last.text + number.text)
        found.append(number)
    yield from found


def ordinals_apart(numbers: Iterable[Number]) -> Iterator[Number]:
    """Yield the numbers without false ordinals right after another number: "one second", "two thirds"."""
    before: Number | None = None
    for number in numbers:
        is_unit = number.is_ordinal and before is not None and before.end == number.first and not before.is_ordinal
        is_seconds = number.text.endswith("2nd") and number.end - number.first > 1 and int(number.digits) > LAST_DAY
        if not (is_unit or is_seconds):
            yield number
        before = number


def scaled(numbers: Iterable[Number], run: Sequence[Piece]) -> Iterator[Number]:
    """Yield the numbers, and join a decimal with the scale after it: 1.5 million."""
    before: Number | None = None
    for number in numbers:
        is_scale = number.end - number.first == 1 and run[number.first].plain in SCALES
        if before is not None and is_scale and before.end == number.first and "." in before.text:
            before = Number(before.first, number.end, f"{before.text} {run[number.first].plain}")
            continue
        if before is not None:
            yield before
        before = number
    if before is not None:
        yield before


def homophones_in(run: Sequence[Piece], numbers: Sequence[Number]) -> list[Number]:
    ends, firsts = {each.end for each in numbers}, {each.first for each in numbers}
    return [
        Number(index, index + 1, HOMOPHONES[piece.plain])
        for index, piece in enumerate(run)
        if piece.plain in HOMOPHONES and index in ends and (index + 1 in firsts or index + 1 == len(run))
    ]


def split_hundreds(number: Number, following: Sequence[Number], run: Sequence[Piece]) -> list[Number]:
    """Split 805 into 800 and 5 if single digits follow directly, as in "eight hundred five five five"."""
    last = number.end - 1
    is_unit_after_hundred = last > number.first and digit_of(run[last].plain) and run[last - 1].plain == "hundred"
    digits_follow = bool(following) and following[0].first == number.end and len(following[0].text) == 1
    if not (is_unit_after_hundred and digits_follow):
        return [number]
    return [Number(number.first, last, number.text[:-1] + "0"), Number(last, number.end, number.text[-1])]


def text_alone(run: Sequence[Piece], index: int, piece: Piece) -> str:
    """Return the digits of a piece that find_numbers does not recognise; empty if there are none."""
    word = piece.plain
    if is_written(word):
        return word
    if word in ZEROS:
        return "0"
    if word in REPEATS and index + 1 < len(run):
        repeated = digit_of(run[index + 1].plain)
        return repeated * (REPEATS[word] - 1)
    return ""


def digit_of(word: str) -> str:
    """Return the one digit that a plain word means; empty for other words."""
    if word in ZEROS:
        return "0"
    return str(UNITS.index(word)) if word in UNITS else word if len(word) == 1 and word.isdecimal() else ""
