"""The text of a stream after its rules: stable text stays, and no secret is ever in it, wherever segments are cut."""

import re
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from server.stream.formatting.options import Replacement, Secret, TextOptions
from server.stream.formatting.rules import pieces_of
from server.stream.formatting.spoken_numbers import numbers_in
from server.stream.formatting.transcript import formatted
from server.stream.transcript import Segment, join
from server.stream.word_times import Word
from tests.server.stream.formatting.test_rules import TEXTS

OPTIONS = st.builds(
    TextOptions,
    numerals=st.booleans(),
    redacted=st.frozensets(st.sampled_from(list(Secret))),
    masks_profanity=st.booleans(),
    drops_fillers=st.booleans(),
    replacements=st.sampled_from([(), (Replacement("new york", "NYC"), Replacement("the", ""))]),
)
UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@dataclass
class Script:
    """A transcript that is told what it says: words, cut into segments, some in sight, some of them stable."""

    with_words: bool
    segments: list[Segment] = field(default_factory=list)
    open_text: str = ""
    open_stable_text: str = ""

    @property
    def text(self) -> str:
        return join(" ".join(segment.text for segment in self.segments), self.open_text)

    @property
    def stable(self) -> int:
        return len(join(" ".join(segment.text for segment in self.segments), self.open_stable_text))

    def show(self, words: list[str], stable: int) -> None:
        self.open_text, self.open_stable_text = " ".join(words), " ".join(words[:stable])

    def close(self, words: list[str]) -> None:
        times = tuple(Word(word, index * 100, index * 100 + 100) for index, word in enumerate(words))
        if words:
            self.segments.append(Segment(" ".join(words), 0, 100 * len(words), times if self.with_words else None))

    def end(self, is_cut: bool = False) -> None:
        pass


@st.composite
def speech(draw, words):
    """The states of a stream that says these words: how many are closed, in sight and stable."""
    states, closed, stable = [], 0, 0
    for _ in range(draw(st.integers(0, 12))):
        closed = draw(st.just(closed) | st.integers(closed, len(words)))
        stable = draw(st.integers(max(closed, stable), len(words)))
        states.append((closed, draw(st.integers(stable, len(words))), stable))
    return [*states, (len(words), len(words), len(words))]


def play(script: Script, view, words: list[str], states) -> list[tuple[str, int]]:
    """Return what was said: the text and how much of it is stable, at each state and at the end."""
    said, begin = [], 0
    for closed, shown, stable in states:
        if closed > begin:
            script.close(words[begin:closed])
            begin = closed
        script.show(words[closed:shown], stable - closed)
        said.append((view.text, view.stable))
    view.end()
    return [*said, (view.text, len(view.text))]


@given(st.data(), TEXTS, OPTIONS, st.booleans())
def test_stable_text_stays_and_segments_are_the_text(data, words, options, with_words):
    script = Script(with_words)
    view = formatted(script, options)
    said = play(script, view, words, data.draw(speech(words)))
    for (before, stable), (after, later) in zip(said, said[1:], strict=False):
        assert later >= stable and after[:stable] == before[:stable]
    assert view.text == " ".join(segment.text for segment in view.segments)
    for segment in view.segments if with_words else ():
        assert segment.text == " ".join(word.w for word in segment.words)
        assert all(word.start_ms < word.end_ms for word in segment.words)


def test_a_number_goes_on_from_the_segment_before_only_where_nothing_is_between():
    script = Script(with_words=True)
    view = formatted(script, TextOptions(redacted=frozenset([Secret.LONG_NUMBER])))
    script.close(["room", "411"])
    script.close(["hello", "there", "one", "two"])
    assert view.text == "room [NUMBER] hello there one two"


def test_a_segment_whose_words_are_not_its_text_has_none_rather_than_a_secret():
    script = Script(with_words=True)
    view = formatted(script, TextOptions(redacted=frozenset([Secret.LONG_NUMBER])))
    script.segments.append(Segment("room 411 it is", 0, 900, (Word("411", 0, 900),)))
    (segment,) = view.segments
    assert segment.text == "room [NUMBER] it is" and segment.words == ()


def test_a_security_code_is_known_by_the_words_of_the_segment_before():
    script = Script(with_words=True)
    view = formatted(script, TextOptions(redacted=frozenset([Secret.CARD])))
    script.close(["the", "security", "code", "is"])
    assert view.text == "the security code is"
    script.close(["one", "two", "three", "okay"])
    assert view.text == "the security code is [CREDIT_CARD] okay"


def luhn_digit(digits: str) -> str:
    doubled = [sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(digits))]
    return str(-sum(doubled) % 10)


@st.composite
def spoken_cards(draw):
    """A card number as people say it and the model writes it: its digits, and words."""
    chance = draw(st.randoms(use_true_random=False))
    digits = "".join(chance.choice("123456789") for _ in range(15))
    digits += luhn_digit(digits)
    words, at = [], 0
    while at < len(digits):
        size = chance.choice([1, 1, 1, 4])
        group = digits[at : at + size]
        words += [group] if size == 4 and chance.random() < 0.5 else [UNITS[int(digit)] for digit in group]
        words += ["um"] if chance.random() < 0.1 else []
        at += size
    return digits, ["my", "card", "is", *(word + chance.choice(["", "", "", ",", "."]) for word in words), "thank", "you"]


def digits_of(text: str) -> str:
    """The digits of a text in a row, with a space where others words are between them."""
    pieces = pieces_of(text.split())
    found = {number.first: number.digits for number in numbers_in(pieces)}
    return re.sub(
        r"\s+", " ", "".join(found.get(index, " ") if piece.plain != "um" else "" for index, piece in enumerate(pieces))
    )


@given(st.data(), spoken_cards(), st.booleans(), st.sampled_from([Secret.CARD, Secret.LONG_NUMBER, Secret.ANY_NUMBER]))
def test_no_card_number_is_ever_said(data, card, numerals, secret):
    digits, words = card
    script = Script(with_words=True)
    view = formatted(script, TextOptions(numerals=numerals, redacted=frozenset([secret])))
    for text, _ in play(script, view, words, data.draw(speech(words))):
        assert all(len(row) < 3 or row not in digits for row in digits_of(text).split()), text
    assert view.text.startswith("my card is ") and view.text.endswith(" thank you") and "[" in view.text
