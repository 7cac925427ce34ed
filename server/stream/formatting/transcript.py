"""The text of a stream with its client's text options: a transcript rewritten by rules."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from server.stream.formatting import redaction
from server.stream.formatting.numerals import NumeralsRule
from server.stream.formatting.options import Secret, TextOptions
from server.stream.formatting.redaction import EmailRule, NumberRedactionRule, TextBefore
from server.stream.formatting.rules import Piece, Rule, apply_all, decided_by
from server.stream.formatting.words import FillerRule, ProfanityRule, ReplacementRule
from server.stream.transcript import Segment, Transcript, join
from server.stream.word_times import Word


class Text(Protocol):
    """The text of a stream, as it is sent."""

    @property
    def text(self) -> str:
        """The whole text so far."""

    @property
    def stable(self) -> int:
        """Leading characters of text that will never change."""

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments that are closed, in the order of the audio."""

    def end(self, is_cut: bool = False) -> None:
        """Mark the end of the text. is_cut: True if the speaker may go on elsewhere."""


def formatted(transcript: Transcript, options: TextOptions) -> Text:
    return transcript if options.are_plain else FormattedTranscript(transcript, options)


class FormattedTranscript:
    """Rewrites the open segment again after each change, and each closed segment once.

    Decided text stays as it is even if a segment is cut within it: a number that was rewritten as one belongs to the segment in
    which it begins.
    """

    def __init__(self, transcript: Transcript, options: TextOptions):
        self._transcript, self._options = transcript, options
        self._segments: list[Segment] = []
        self._closed = 0  # number of the transcript's segments that are handled
        self._committed = ""
        self._decided: tuple[Piece, ...] = ()  # pieces of the open segment, decided before the last cut
        self._covered = 0  # words at the start of the open segment that are in these pieces or in the closed segment
        self._before = TextBefore(None if options.is_cut_before else ())
        self._is_cut_after = True
        self._state: tuple[int, str, str] | None = None  # state of the transcript when it was last rewritten
        self._found = ("", 0)
        self._word_rules = list(word_rules(options))

    @property
    def text(self) -> str:
        return self._rewritten()[0]

    @property
    def stable(self) -> int:
        return self._rewritten()[1]

    def _rewritten(self) -> tuple[str, int]:
        """Return the text and the number of its stable characters; computed once for each state of the transcript."""
        self._close()
        state = (self._closed, self._transcript.open_text, self._transcript.open_stable_text)
        if state != self._state:
            rules = self._rules(self._before)
            said = apply_all(rules, self._transcript.open_text.split()[self._covered :])
            decided = decided_by(rules, self._stable_words()[self._covered :])
            texts = [join(self._committed, text_of([*self._decided, *pieces])) for pieces in (said, decided)]
            self._state, self._found = state, (texts[0], len(texts[1]))
        return self._found

    @property
    def segments(self) -> Sequence[Segment]:
        self._close()
        return self._segments

    def end(self, is_cut: bool = False) -> None:
        self._is_cut_after = is_cut or self._options.is_cut_after
        self._close()

    def _stable_words(self) -> list[str]:
        """Return the whole words of the open segment, without the last stable one: a hyphen and more may still follow it."""
        return self._transcript.open_stable_text.split()[:-1]

    def _close(self) -> None:
        """Rewrite the segments that have closed since the last call."""
        while self._closed < len(self._transcript.segments):
            segment, *later = self._transcript.segments[self._closed :]
            self._closed += 1
            following = [*(word for each in later for word in words_of(each)), *self._stable_words()]
            self._append(segment, following, self._is_cut_after or bool(later))

    def _append(self, segment: Segment, following: Sequence[str], is_cut_after: bool) -> None:
        """Rewrite a closed segment and add it. following: words after the segment that will not change."""
        said = words_of(segment)
        pieces = self._pieces_of(said, following, is_cut_after)
        self._decided = tuple(piece.moved(-len(said)) for piece in pieces if piece.first >= len(said))
        before, self._covered = self._covered, max([0, self._covered - len(said), *(piece.end - len(said) for piece in pieces)])
        self._before = self._before.after([*said, *following][before : len(said) + self._covered])
        inside = [piece for piece in pieces if piece.first < len(said)]
        if text := text_of(inside):
            timed = segment.words if segment.words and has_times(segment) else ()
            words = None if segment.words is None else tuple(word_of(piece, timed) for piece in inside if timed)
            self._segments.append(replace(segment, text=text, words=words, tokens=()))
            self._committed = join(self._committed, text)

    def _pieces_of(self, said: Sequence[str], following: Sequence[str], is_cut_after: bool) -> list[Piece]:
        """Return the decided pieces, also those after the segment, and the rest of the segment, rewritten as closed text."""
        decided = decided_by(self._rules(self._before), [*said, *following][self._covered :])
        pieces = [*self._decided, *(piece.moved(self._covered) for piece in decided)]
        end = max(self._covered, pieces[-1].end) if pieces else self._covered
        if end < len(said):
            rules = self._rules(self._before.after(said[self._covered : end]), is_cut_after)
            pieces += [piece.moved(end) for piece in apply_all(rules, said[end:], is_closed=True)]
        return pieces

    def _rules(self, before: TextBefore, is_cut_after: bool = True) -> list[Rule]:
        """Return the rules for a text. before: the text before it."""
        options = self._options
        rules: list[Rule] = [FillerRule()] if options.drops_fillers else []
        if options.redacted & redaction.NUMERIC:
            rules.append(NumberRedactionRule(options.redacted, before, is_cut_after))
        return rules + self._word_rules


def word_rules(options: TextOptions) -> list[Rule]:
    """Return the rules that are the same for every segment, in order."""
    rules: list[Rule] = [EmailRule()] if Secret.EMAIL in options.redacted else []
    rules += [NumeralsRule()] if options.numerals else []
    rules += [ProfanityRule()] if options.masks_profanity else []
    return rules + ([ReplacementRule(options.replacements)] if options.replacements else [])


def words_of(segment: Segment) -> list[str]:
    return [word.w for word in segment.words or ()] if has_times(segment) else segment.text.split()


def has_times(segment: Segment) -> bool:
    """True if each word of the text has times."""
    return " ".join(word.w for word in segment.words or ()) == segment.text


def text_of(pieces: Sequence[Piece]) -> str:
    return " ".join(piece.text for piece in pieces)


def word_of(piece: Piece, words: Sequence[Word]) -> Word:
    """Convert a piece to a word, from the start of its first word to the end of its last, with their lowest confidence."""
    said = words[piece.first : piece.end]
    return Word(piece.text, said[0].start_ms, said[-1].end_ms, min(word.confidence for word in said))
