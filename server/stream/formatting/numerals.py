"""Writes numbers in digits, as people write them: 21 people, the 3rd, 1984, 555-1234, $5.20, 3.14."""

from collections.abc import Generator, Iterator, Sequence
from itertools import groupby, pairwise

from server.stream.formatting.rules import Piece, Rewriting
from server.stream.formatting.spoken_numbers import REPEATS, SCALES, ZEROS, Number, is_number_word, numbers_in, starts_number

SMALL = 3.0
"""Numbers up to this one stay words where they stand alone: one of them, wait a second."""
LEAST_DIGITS = 3  # fewest digits spoken one by one that are one number
LEAST_LISTED_DIGITS = 4  # fewest with commas between them, as the model writes digits of a slow speaker
GROUPED_FROM = 10_000  # 9999 may be a year
PHONE_GROUPS = {7: (3, 4), 10: (3, 3, 4), 11: (1, 3, 3, 4)}
CENTURIES = range(17, 21)
CURRENCIES = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}
UNITS = {*CURRENCIES, "cent", "cents", "percent"}
JOINS = {"and", "point"}  # words within a number
ROUND = ("million", "billion", "trillion")
"""Scales that stay words: 5 million."""


class NumeralsRule:
    """Rewrites each run of number words separately."""

    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        begin = at + (pieces[at].plain == "a" and not follows_half(pieces, at))
        if begin > at and begin == len(pieces):
            return None if is_closed else Rewriting(1, (pieces[at],), is_decided=False)
        if not (starts_run(pieces, begin) if begin == at else pieces[begin].plain in SCALES):
            return None
        end = end_of_run(pieces, begin)
        run = tuple(written(pieces[begin:end]))
        if begin > at and run:
            run = (Piece(run[0].text, pieces[at].first, run[0].end), *run[1:])
        return Rewriting(end - at, run, is_closed or end < len(pieces))


def follows_half(pieces: Sequence[Piece], at: int) -> bool:
    return at > 0 and pieces[at - 1].plain in ("half", "quarter")


def starts_run(pieces: Sequence[Piece], at: int) -> bool:
    word = pieces[at].plain
    return starts_number(word) or word in REPEATS or is_written_digit(pieces, at)


def is_written_digit(pieces: Sequence[Piece], at: int) -> bool:
    """True for a single digit. "5 million" does not count: it is already written as it should be."""
    is_scaled = at + 1 < len(pieces) and pieces[at + 1].plain in SCALES
    return len(pieces[at].text.strip(",")) == 1 and pieces[at].plain.isdecimal() and not is_scaled


def end_of_run(pieces: Sequence[Piece], begin: int) -> int:
    """Return the end of a run: it ends with its sentence, or before the first word that is not part of a number."""
    end = begin + 1
    while end < len(pieces) and not pieces[end - 1].ends_sentence and is_part(pieces, end):
        end += 1
    return end


def is_part(pieces: Sequence[Piece], at: int) -> bool:
    word = pieces[at].plain
    return is_number_word(word) or word in {*ZEROS, *REPEATS, *JOINS, *UNITS} or is_written_digit(pieces, at)


def written(run: Sequence[Piece]) -> Iterator[Piece]:
    """Yield a run with its numbers in digits, and the words between them as they are."""
    numbers = numbers_in(run)
    if len(numbers) == 1 and stays_word(numbers[0]) and not unit_at(run, numbers[0].end):
        yield from run
        return
    at = 0
    for group in groups_of(numbers, run):
        if group[0].first >= at:  # otherwise it is the cents of the amount before
            yield from run[at : group[0].first]
            at = yield from amount(run, group)
    yield from run[at:]


def groups_of(numbers: Sequence[Number], run: Sequence[Piece]) -> list[list[Number]]:
    """Group numbers that follow each other directly, without punctuation; or with commas, if they are digits of one number."""
    groups: list[list[Number]] = []
    for number in numbers:
        is_next = bool(groups) and groups[-1][-1].end == number.first
        if is_next and not run[number.first - 1].marks:
            groups[-1].append(number)
        else:
            groups.append([number])
    return list(joined_lists(groups))


def joined_lists(groups: Sequence[list[Number]]) -> Iterator[list[Number]]:
    """Yield the groups, and join those that are single digits of one number."""
    for are_digits, following in groupby(groups, key=lambda group: all(is_digit(number) for number in group)):
        listed = list(following)
        digits = [number for group in listed for number in group]
        is_one = are_digits and are_adjacent(digits) and len(digits) >= LEAST_LISTED_DIGITS and not is_counting(digits)
        yield from [digits] if is_one else listed


def is_digit(number: Number) -> bool:
    return len(number.digits) == 1 and not number.is_ordinal


def are_adjacent(numbers: Sequence[Number]) -> bool:
    return all(before.end == after.first for before, after in pairwise(numbers))


def is_counting(digits: Sequence[Number]) -> bool:
    """True for one, two, three, four, and for a countdown."""
    steps = {int(after.digits) - int(before.digits) for before, after in pairwise(digits)}
    return steps in ({1}, {-1})


def amount(run: Sequence[Piece], group: Sequence[Number]) -> Generator[Piece, None, int]:
    """Yield a group as it is written, with its unit. Returns the index of the first piece after it."""
    end, unit = group[-1].end, unit_at(run, group[-1].end)
    *others, last = texts_of(run, group)
    for each in others:
        yield spanning(each.text, run, each.first, each.end)
    text = last.text
    if unit in CURRENCIES:
        cents, end = cents_after(run, end + 1)
        digits, space, scale = text.partition(" ")
        text = f"{CURRENCIES[unit]}{digits}{cents}{space}{scale}"
    elif unit == "percent":
        text, end = f"{text}%", end + 1
    yield spanning(text, run, last.first, end)
    return end


def unit_at(run: Sequence[Piece], end: int) -> str:
    """Return the unit right after a number; empty if there is none."""
    follows = end < len(run) and not run[end - 1].marks
    return run[end].plain if follows and run[end].plain in UNITS else ""


def spanning(text: str, run: Sequence[Piece], first: int, end: int) -> Piece:
    return Piece(text + run[end - 1].marks, run[first].first, run[end - 1].end)


def stays_word(number: Number) -> bool:
    is_small = float(number.digits) <= SMALL and "." not in number.text
    return is_small and number.end - number.first == 1


def cents_after(run: Sequence[Piece], at: int) -> tuple[str, int]:
    """Return the cents that follow dollars, as .20, and the index after them; an empty text and `at` if there are none."""
    begin = at + (at < len(run) and run[at].plain == "and")
    following = [number for number in numbers_in(run[begin:]) if number.first == 0]
    if at > len(run) or run[at - 1].marks or not following:
        return "", at
    end = begin + following[0].end
    if end < len(run) and run[end].plain in ("cent", "cents") and following[0].digits.isdigit():
        value = int(following[0].digits)
        return (f".{value:02d}", end + 1) if value < 100 else ("", at)
    return "", at


def texts_of(run: Sequence[Piece], group: Sequence[Number]) -> list[Piece]:
    """Return the numbers of a group as they are written. Their indices are those in the run."""
    if len(group) == 1:
        return [Piece(formatted(group[0], run), group[0].first, group[0].end)]
    joined = joined_digits(group)
    if joined is None:
        return list(by_pairs(group, run))
    return [Piece(joined, group[0].first, group[-1].end)]


def joined_digits(group: Sequence[Number]) -> str | None:
    """Join digits that are spoken one by one, or some of them in pairs; None for separate numbers in a row."""
    singles = list(map(is_digit, group))
    in_a_row = any(all(singles[at : at + LEAST_DIGITS]) for at in range(len(group) - LEAST_DIGITS + 1))
    begins_with_zero = group[0].digits.startswith("0")
    if not (in_a_row or begins_with_zero) or any(each.is_ordinal or "." in each.text for each in group):
        return None
    digits = "".join(each.digits for each in group)
    lengths = PHONE_GROUPS.get(len(digits))
    if lengths is None or (len(digits) == 11 and digits[0] != "1"):
        return digits
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    return "-".join(digits[begin:end] for begin, end in pairwise([0, *ends]))


def by_pairs(group: Sequence[Number], run: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the numbers of a group, and join those that are spoken as a year."""
    at = 0
    while at < len(group):
        year, count = year_at(group, at)
        yield Piece(year or formatted(group[at], run), group[at].first, group[at + count - 1].end)
        at += count


def year_at(group: Sequence[Number], at: int) -> tuple[str, int]:
    """Return the year that begins with a number, and its count of numbers: 19 84, 19 0 5. The text is empty if there is none."""
    first, *rest = (each for each in group[at : at + 3])
    if first.is_ordinal or not rest or not first.text.isdigit() or int(first.text) not in CENTURIES:
        return "", 1
    if rest[0].text.isdigit() and len(rest[0].text) == 2:
        return first.text + rest[0].text, 2
    if len(rest) == 2 and rest[0].text == "0" and len(rest[1].text) == 1:
        return first.text + "0" + rest[1].text, 3
    return "", 1


def formatted(number: Number, run: Sequence[Piece]) -> str:
    """Return the text of a single number: 12,500, 5 million, 3.14, 21st."""
    last = run[number.end - 1].plain
    if number.is_ordinal or not number.text.isdigit():
        return number.text
    if last in ROUND:
        scale = 1000 ** (ROUND.index(last) + 2)
        if int(number.text) % scale == 0:
            return f"{int(number.text) // scale} {last}"
    return f"{int(number.text):,}" if int(number.text) >= GROUPED_FROM and number.text[0] != "0" else number.text
