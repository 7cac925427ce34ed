"""Hypotheses into text: what is committed, what is stable, what still moves. Pure bookkeeping, no clock, no engine."""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.tokenizer import Tokenizer
from server.stream.words import Word

Span = tuple[int, int]
"""First token of a word and the one behind its last."""

STABLE_RULES = ((1, -0.05), (1.5, -0.3), (2, -0.5), (4, -1.0))
"""A word is stable when so many times the agreement asked for of hypotheses in a row have it and the same before it, none of them
giving any of its tokens less than this log-probability: the more they believe it, the fewer are needed. Measured with
agreement 2 at 0.5 s on 1,920 words (synthesised sentences, a third of them under noise of 10 to 15 dB SNR, and mid.wav): half of
the words are stable 1.65 s after their end, and 3 of them were wrong by what later audio said; with -0.25 for two hypotheses 1.5
s and 4 words. Any word after 4 hypotheses: 1.3 s and 16 words of 1,405; any two hypotheses: 1.1 s and 26. What is kept is also
the first spelling: on the evaluation clips 6 words of 406 stay as they first came up ("19th", "you'll", "traveler")."""

PUNCTUATION_LOG_PROB = -1.0
"""Asked of punctuation where more would be asked of a word. Without it mid.wav's words, between whose clauses a comma is as good
as a full stop, are stable after 2.5 s instead of 1.8 s."""

SHOWN_LOG_PROB = -0.35
"""A word is shown once the model believes it this much and has begun the next one,"""

AGREED_LOG_PROB = -1.0
"""or once two hypotheses in a row have it and give it this much. What is shown is replaced when two in a row say otherwise, and
alike. Measured as above: UPWR 0.20 and half of the words in sight 0.72 s after their end, where showing all of every hypothesis
gives 1.44 and 0.41 s, and only what two agree on 0.24 and 0.98 s."""


FEW_WORDS, LOST_SHARE = 3, 3  # a final with less than a third of three or more words in sight has failed


@dataclass(frozen=True)
class Segment:
    """A closed stretch of audio and its final text."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] | None = None
    """None where they were not asked for."""


@dataclass(frozen=True)
class Hypothesis:
    """What the model says of the open segment."""

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()


NOTHING = Hypothesis()


class Transcript:
    """The text of one session.

    Committed segments never change. In the open segment words are shown when they are likely to stay, and become stable when
    hypotheses agree on them (STABLE_RULES). Whoever asks for the next hypothesis gives `draft` with its first `forced` tokens
    taken unseen, so that no later one can take a stable word back.
    """

    def __init__(self, tokenizer: Tokenizer, agreement: int = 2):
        if agreement < 2:
            raise ValueError(f"agreement {agreement}: at least 2 hypotheses are needed to agree")
        self._tokenizer = tokenizer
        self._rules = [(round(times * agreement), least) for times, least in STABLE_RULES]
        self._committed = ""
        self.segments: list[Segment] = []
        self._open()

    def _open(self) -> None:
        """Begin a segment."""
        self.draft: tuple[int, ...] = ()
        """The newest hypothesis of the open segment."""
        self.forced = 0
        """How many of the draft's tokens are stable."""
        self._shown: tuple[int, ...] = ()  # the tokens in sight
        self._recent: deque[Hypothesis] = deque(maxlen=self._rules[-1][0])  # newest last

    @property
    def text(self) -> str:
        return join(self._committed, self._tokenizer.text(self._shown))

    @property
    def stable(self) -> int:
        """Leading characters of text that will never change. Never decreases."""
        stable_open = self._tokenizer.text(self.draft[: self.forced])
        return len(join(self._committed, stable_open))

    def update(self, newest: Hypothesis, complete: bool = False) -> None:
        """Take a new hypothesis of the open segment, made with this transcript's draft and forced.

        complete: its audio ended in a pause, so its last word is whole.
        """
        self._recent.append(newest)
        self.draft = newest.tokens
        words = self._words(self.draft)
        whole = words if complete else words[:-1]
        self._confirm(whole)
        self._show(words, whole)

    def has_lost_sight(self, tokens: Sequence[int]) -> bool:
        """Has a final hypothesis so few words, beside those in sight, that it must have failed? Quiet does that to Moonshine.

        With bias, dither and the segmenter's cuts it was not seen once in 360 results over speech with seconds of quiet in it.
        """
        in_sight = len(self._words(self._shown))
        return in_sight >= FEW_WORDS and LOST_SHARE * len(self._words(tokens)) < in_sight

    def keep_what_is_in_sight(self) -> None:
        """Make it stable, so that the next hypothesis has it."""
        self.draft, self.forced = self._shown, len(self._shown)

    def commit(self, tokens: Sequence[int], start_ms: int, end_ms: int, rest: Hypothesis = NOTHING,
               words: tuple[Word, ...] | None = None) -> None:  # fmt: skip
        """Close the open segment with its final tokens, which begin with what was forced or are the beginning of that.

        rest: what the same hypothesis has behind them. It is the first hypothesis of the next segment: what of it is stable
        remains so, and as many words as were in sight stay there.
        """
        if text := self._tokenizer.text(tokens):
            self._committed = join(self._committed, text)
            self.segments.append(Segment(text, start_ms, end_ms, words))
        stable = max(0, self.forced - len(tokens)) if rest.tokens else 0
        in_sight = len(self._words(self._shown)) - len(self._words(tokens))
        self._open()
        self._recent.extend([rest] if rest.tokens else [])
        self.draft, self.forced = rest.tokens, stable
        self._shown = rest.tokens[: max([stable, *(end for _, end in self._words(rest.tokens)[: max(0, in_sight)])])]

    def _confirm(self, whole: Sequence[Span]) -> None:
        """Make words stable, in order, as far as the rules go."""
        for begin, end in whole:
            if end > self.forced:
                if not any(self._agreed(begin, end, count, least) for count, least in self._rules):
                    return
                self.forced = end

    def _show(self, words: Sequence[Span], whole: Sequence[Span]) -> None:
        """Decide what of the newest hypothesis is in sight."""
        newest, kept = self.draft, common_prefix(self._shown, self.draft)
        end = self.forced
        for word in words:
            if word[1] > end and not self._is_likely(word, word in whole):
                break
            end = max(end, word[1])
        if kept == len(self._shown):
            self._shown = newest[: max(end, kept)]
        elif self.forced > kept or self._is_contradicted(words, kept):
            # As many words as before stay in sight: a correction in the middle should not take away what is behind it.
            before = len(self._words(self._shown))
            self._shown = newest[: max([end, *(last for _, last in whole[:before])])]

    def _is_likely(self, word: Span, is_whole: bool) -> bool:
        return (is_whole and self._agreed(*word, 1, SHOWN_LOG_PROB)) or self._agreed(*word, 2, AGREED_LOG_PROB)

    def _is_contradicted(self, words: Sequence[Span], kept: int) -> bool:
        """Did the hypothesis before the newest leave what is in sight at the same place, and for the same word?"""
        if len(self._recent) < 2 or common_prefix(self._shown, self._recent[-2].tokens) != kept:
            return False
        end = next((last for _, last in words if last > kept), kept)
        return self._recent[-2].tokens[:end] == self.draft[:end]

    def _agreed(self, begin: int, end: int, count: int, least: float) -> bool:
        """Do the newest `count` hypotheses have this word and all before it, and give its tokens at least so much?"""
        if count > len(self._recent):
            return False
        newest = [self._recent[-1 - age] for age in range(count)]
        return all(self._has_word(each, end) and self._believes(each, begin, end, least) for each in newest)

    def _believes(self, hypothesis: Hypothesis, begin: int, end: int, least: float) -> bool:
        """A comma or a full stop is often as good as the other; of those less is asked."""
        return all(
            log_prob >= (min(least, PUNCTUATION_LOG_PROB) if self._tokenizer.is_punctuation(token) else least)
            for token, log_prob in zip(hypothesis.tokens[begin:end], hypothesis.log_probs[begin:end], strict=True)
        )

    def _has_word(self, hypothesis: Hypothesis, end: int) -> bool:
        tokens = hypothesis.tokens
        return tokens[:end] == self.draft[:end] and (len(tokens) == end or self._tokenizer.starts_word(tokens[end]))

    def _words(self, tokens: Sequence[int]) -> list[Span]:
        begins = [index for index, token in enumerate(tokens) if index == 0 or self._tokenizer.starts_word(token)]
        return list(itertools.pairwise([*begins, len(tokens)]))


def join(first: str, second: str) -> str:
    return f"{first} {second}" if first and second else first or second


def common_prefix(first: Sequence[object], second: Sequence[object]) -> int:
    """How many leading items both have."""
    return next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
