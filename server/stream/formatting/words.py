"""Rules for single words and phrases: fillers, profanity, replacements."""

import re
from collections.abc import Sequence

from server.stream.formatting.options import Replacement
from server.stream.formatting.rules import Piece, Rewriting, merged, pieces_of
from server.stream.formatting.spoken_numbers import FILLERS

STEMS = "fuck|shit|piss|bitch|whore|wank|bollock|twat|slut|cunt"
ENDINGS = "s|es|ed|er|ers|y|ier|iest|in|in'|ing|ings|head|heads|face|faces|hole|holes|off"
PROFANITY = re.compile(
    rf"(bull|dip|horse|dog)?(mother)?({STEMS})({ENDINGS})?|(jack|dumb|bad|smart|ass)?ass(es|hole|holes|hat|hats)"
    r"|(dumb|jack|bad|smart)ass|(god)?damn(ed|it)?|goddam|(cock|dick)(sucker|suckers|head|heads)|cocks?|dicks?|pricks?|bastards?"
    r"|tits?|tit(ty|ties)|nigg(a|as|er|ers)|fags?|fagg?ots?|retards?|spastics?|kikes?|chinks?|spics?|tranny|trannies|dykes?"
    r"|arse(s|hole|holes)?|wtf"
)
"""Words that are profane in any sense, and their usual forms. Words that also have an innocent meaning, such as hell, are not
included."""


class FillerRule:
    """Leaves out fillers such as uh and um. The sentence keeps its capital letter and its final punctuation."""

    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        begins_with_filler = is_filler(pieces[at])
        end = at if begins_with_filler else at + 1
        while end < len(pieces) and is_filler(pieces[end]):
            end += 1
        is_decided = is_closed or end < len(pieces)
        if begins_with_filler:
            return self._without(pieces, at, end, is_closed)
        if not is_decided or (end > at + 1 and pieces[end - 1].ends_sentence):
            return Rewriting(end - at, (ended(pieces[at], pieces[at + 1 : end]),), is_decided)
        return None

    def _without(self, pieces: Sequence[Piece], at: int, end: int, is_closed: bool) -> Rewriting:
        """Leave out pieces[at:end]; the word after them gets their capital letter."""
        if end == len(pieces) or not pieces[at].text[:1].isupper():
            return Rewriting(end - at, (), is_closed or end < len(pieces))
        rest = self.rewrite(pieces, end, is_closed) or Rewriting(1, (pieces[end],))
        return Rewriting(end - at + rest.taken, (capitalised(rest.pieces[0]), *rest.pieces[1:]), rest.is_decided)


def capitalised(piece: Piece) -> Piece:
    return Piece(piece.text[:1].upper() + piece.text[1:], piece.first, piece.end)


def is_filler(piece: Piece) -> bool:
    return piece.plain in FILLERS


def ended(piece: Piece, fillers: Sequence[Piece]) -> Piece:
    """Return the piece with the punctuation of the fillers after it, if that ends the sentence."""
    if not fillers or not fillers[-1].ends_sentence:
        return piece
    return Piece(piece.text[: len(piece.text) - len(piece.marks)] + fillers[-1].marks, piece.first, piece.end)


class ProfanityRule:
    """Writes asterisks for the letters of profane words."""

    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        piece = pieces[at]
        if not PROFANITY.fullmatch(piece.plain):
            return None
        return Rewriting(1, (Piece(re.sub(r"[\w'’]", "*", piece.text), piece.first, piece.end),))


class ReplacementRule:
    """Replaces words and phrases. Of several phrases that begin at the same word, the longest is replaced."""

    def __init__(self, replacements: Sequence[Replacement]):
        self._by_first_word: dict[str, list[tuple[list[str], str]]] = {}
        for each in replacements:
            phrase = [piece.plain for piece in pieces_of(each.find.split())]
            self._by_first_word.setdefault(phrase[0], []).append((phrase, each.replace))
            self._by_first_word[phrase[0]].sort(key=lambda candidate: -len(candidate[0]))

    def rewrite(self, pieces: Sequence[Piece], at: int, is_closed: bool) -> Rewriting | None:
        for phrase, text in self._by_first_word.get(pieces[at].plain, ()):
            found = pieces[at : at + len(phrase)]
            said = [piece.plain for piece in found]
            if said == phrase:
                return Rewriting(len(found), (merged(text, found),) if text else ())
            if not is_closed and said == phrase[: len(said)]:
                return Rewriting(len(found), tuple(found), is_decided=False)
        return None
