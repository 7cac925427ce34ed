"""Rules that rewrite text word by word. Decided text never changes, whatever words follow.

A rule looks at one place of the text. It leaves the word there alone, or it rewrites one or more words. If later words could
change the result, it is marked as not decided. Property: apply(rule, words + more) begins with all decided pieces of
apply(rule, words).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

MARKS = '.,?!;:…"“”()[]<>¿¡'
END_MARKS = re.compile(r"[.,?!;:…]*(?=[\"”’)]*$)")
SENTENCE_ENDS = (".", "?", "!", "…")


@lru_cache(10_000)
def plain(word: str) -> str:
    return word.strip(MARKS).lower().replace("’", "'")


@dataclass(frozen=True, slots=True)
class Piece:
    """A word as it is written, and the words of the model that it stands for."""

    text: str
    first: int
    """Index of the first of these words."""
    end: int
    """Index after the last one."""
    is_mask: bool = False
    """True if it stands for a secret; no other rule changes it."""

    def moved(self, by: int) -> "Piece":
        """Return the same piece with its word indices shifted."""
        return replace(self, first=self.first + by, end=self.end + by)

    @property
    def plain(self) -> str:
        """The word in lower case, without the punctuation around it; empty for a mask."""
        return "" if self.is_mask else plain(self.text)

    @property
    def marks(self) -> str:
        """The punctuation after the word."""
        found = END_MARKS.search(self.text)
        return found[0] if found else ""

    @property
    def ends_sentence(self) -> bool:
        return self.text.rstrip('"”)').endswith(SENTENCE_ENDS)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The new text at one place."""

    taken: int
    """Number of pieces that it replaces."""
    pieces: tuple[Piece, ...]
    is_decided: bool = True
    """False if later words may change the pieces; they are then the best guess."""


class Rule(Protocol):
    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        """Rewrite the text from one place on. None leaves the piece there as it is, whatever words follow.

        is_closed: True if no more words come.
        """


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A text after its rules."""

    pieces: tuple[Piece, ...]
    decided: int
    """Number of leading pieces that stay as they are, whatever words follow."""


def pieces_of(words: Sequence[str]) -> tuple[Piece, ...]:
    return tuple(Piece(word, index, index + 1) for index, word in enumerate(words))


def apply(rule: Rule, pieces: Sequence[Piece], is_closed: bool) -> Rewritten:
    """Apply a rule to every place of a text, from the first on."""
    found: list[Piece] = []
    at, decided = 0, None
    while at < len(pieces):
        rewriting = rule.rewrite(pieces, at, is_closed) or Rewriting(1, (pieces[at],))
        if decided is None and not rewriting.is_decided:
            decided = len(found)
        found.extend(rewriting.pieces)
        at += rewriting.taken
    return Rewritten(tuple(found), len(found) if decided is None else decided)


def apply_all(rules: Sequence[Rule], words: Sequence[str], is_closed: bool = False) -> tuple[Piece, ...]:
    """Apply rules one after the other. Text that is not decided gets the best guess."""
    pieces = pieces_of(words)
    for rule in rules:
        pieces = apply(rule, pieces, is_closed).pieces
    return pieces


def decided_by(rules: Sequence[Rule], words: Sequence[str]) -> tuple[Piece, ...]:
    """Return the pieces that stay as they are, whatever words follow."""
    pieces = pieces_of(words)
    for rule in rules:
        rewritten = apply(rule, pieces, is_closed=False)
        pieces = rewritten.pieces[: rewritten.decided]
    return pieces


def merged(text: str, pieces: Sequence[Piece]) -> Piece:
    """Return one piece that replaces several. It keeps the punctuation after the last one."""
    return Piece(text + pieces[-1].marks, pieces[0].first, pieces[-1].end)


def masked(text: str, pieces: Sequence[Piece]) -> Piece:
    """Return a mask that replaces several pieces."""
    return replace(merged(text, pieces), is_mask=True)
