"""Turns hypotheses into text, which is committed, stable or still changing. Pure bookkeeping: no clock, no engine."""

import dataclasses
import difflib
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.tokenizer import Tokenizer
from server.stream.capitals import begins_small, goes_on, lowered
from server.stream.word_times import Word

Span = tuple[int, int]
"""First token of a word and the one after its last."""
Belief = tuple[float, float]
"""The least log-probability of a word's tokens, and of its punctuation, for which the limits are lower."""

ANY = float("-inf")


@dataclass(frozen=True)
class StabilityRule:
    """A condition on a word and on all words before it."""

    hypotheses: float
    """Number of hypotheses in a row that must have the word."""
    least: float
    """Least log-probability of each of its tokens in each of these hypotheses."""
    behind: int = 1
    """Number of words that must follow it in the newest hypothesis; a pause counts as one."""


@dataclass(frozen=True)
class WordBeliefs:
    """A word of the newest hypothesis."""

    word: Span
    behind: int
    """Number of words that follow it; a pause counts as one."""
    beliefs: Sequence[Belief]
    """Beliefs over the newest hypothesis, the newest two, and so on, as far as they have the word and all words before it."""

    def meets(self, rules: Sequence[StabilityRule]) -> bool:
        return any(self._meets(rule) for rule in rules)

    def _meets(self, rule: StabilityRule) -> bool:
        if self.behind < rule.behind or len(self.beliefs) < rule.hypotheses:
            return False
        word, punctuation = self.beliefs[int(rule.hypotheses) - 1]
        return word >= rule.least and punctuation >= min(rule.least, PUNCTUATION_LOG_PROB)


STABLE_RULES = (
    StabilityRule(1, -0.05),
    StabilityRule(1.5, -0.3),
    StabilityRule(2, -0.5),
    StabilityRule(4, -1.0),
    StabilityRule(1, -0.3, behind=3),
    StabilityRule(1.5, ANY, behind=8),
)
"""A word is stable when one of these rules is met. Hypotheses are counted in units of the requested agreement. The more confident
the model is of a word, and the more words follow it, the fewer hypotheses are needed. Chosen on librispeech_train, dictation_long
and the even clips of the other sets."""

PUNCTUATION_LOG_PROB = -1.0
"""Limit for punctuation where a rule asks more of a word. Between the clauses of mid.wav a comma is as good as a full stop:
without this limit its words are stable after 2.5 s instead of 1.8 s."""

SHOWN_RULES = (StabilityRule(1, -0.5), StabilityRule(2, -1.0, behind=0), StabilityRule(2, ANY), StabilityRule(1, ANY, behind=4))
"""A word is shown when one of these is met. Chosen like STABLE_RULES: showing all of every hypothesis gives a UPWR of 1.0."""

FEW_BEHIND = 3  # shown words are replaced if two hypotheses in a row agree on others; three if this many words follow


FEW_WORDS, LOST_SHARE = 3, 3  # a final has failed if three or more words are shown and it has less than a third of them


@dataclass(frozen=True)
class TokenProbability:
    """A token of a text."""

    text: bytes
    """UTF-8 that it adds to the text; a token may end within a character."""
    log_prob: float


@dataclass(frozen=True)
class Segment:
    """A closed range of audio and its final text."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] | None = None
    """None if they were not requested."""
    log_prob: float = 0.0
    """Mean log-probability of its tokens."""
    tokens: tuple[TokenProbability, ...] = ()
    """Its tokens, in order; empty if they were not requested."""
    channel: int | None = None
    """The channel of a recording, counted from 0; None if channels are mixed."""


NO_BELIEF = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    """The model's tokens for the open segment."""

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()

    @property
    def belief(self) -> float:
        """The mean log-probability; for an empty hypothesis, less than any other."""
        return sum(self.log_probs) / len(self.tokens) if self.tokens else NO_BELIEF

    def divided(self, tokens: int) -> "tuple[Hypothesis, Hypothesis]":
        """Return its first `tokens` tokens, and the rest."""
        return (
            Hypothesis(self.tokens[:tokens], self.log_probs[:tokens]),
            Hypothesis(self.tokens[tokens:], self.log_probs[tokens:]),
        )


NOTHING = Hypothesis()


class Transcript:
    """The text of one session.

    Committed segments never change. In the open segment words are shown when they are likely to stay, and become stable when
    hypotheses agree on them (STABLE_RULES). The request for the next hypothesis must have `draft`, whose first `forced` tokens
    are kept unchecked, so that no later hypothesis can remove a stable word.
    """

    def __init__(self, tokenizer: Tokenizer, agreement: int = 2):
        if agreement < 2:
            raise ValueError(f"agreement {agreement}: at least 2 hypotheses are needed to agree")
        self._tokenizer = tokenizer
        self._stable_rules = [dataclasses.replace(rule, hypotheses=round(rule.hypotheses * agreement)) for rule in STABLE_RULES]
        self._most_hypotheses = max(round(rule.hypotheses) for rule in (*self._stable_rules, *SHOWN_RULES))
        self._committed = ""
        self.segments: list[Segment] = []
        self._open()

    def _open(self) -> None:
        """Begin a segment."""
        self.draft: tuple[int, ...] = ()
        """The newest hypothesis of the open segment."""
        self.forced = 0
        """Number of the draft's tokens that are stable."""
        self._goes_on = False  # whether it continues the sentence before
        self._is_small: bool | None = None  # whether the first letter is in lower case; set once the first word is stable
        self._shown: tuple[int, ...] = ()  # the shown tokens
        self._recent: deque[Hypothesis] = deque(maxlen=self._most_hypotheses)  # newest last

    @property
    def text(self) -> str:
        return join(self._committed, self.open_text)

    @property
    def stable(self) -> int:
        """Leading characters of text that will never change. Never decreases."""
        return len(join(self._committed, self.open_stable_text))

    @property
    def open_text(self) -> str:
        """The shown text of the open segment."""
        return self._text_of(self._shown)

    @property
    def open_stable_text(self) -> str:
        """The part of it that will never change."""
        return self._text_of(self.draft[: self.forced])

    def _text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of the open segment with these tokens. Within a sentence its first letter is in lower case."""
        text = self._tokenizer.text(tokens)
        return lowered(text) if self._begins_small(text) else text

    def _begins_small(self, text: str) -> bool:
        if self._is_small is not None:
            return self._is_small
        return self._goes_on and begins_small(text)

    def end(self, is_cut: bool = False) -> None:
        """Ignore the end: this text needs no mark there."""

    def update(self, newest: Hypothesis, complete: bool = False) -> None:
        """Take a new hypothesis of the open segment, made with this transcript's draft and forced.

        complete: its audio ended in a pause, so its last word is whole.
        """
        self._recent.append(newest)
        self.draft = newest.tokens
        words = self._words(self.draft)
        behind = range(len(words) - 1 + complete, -1, -1)
        judged = [
            WordBeliefs(word, count, self._beliefs(*word))
            for word, count in zip(words, behind, strict=False)
            if word[1] > self.forced
        ]
        self._confirm(judged)
        self._show(judged, words[: len(words) - 1 + complete])

    def has_lost_sight(self, tokens: Sequence[int]) -> bool:
        """True if a final hypothesis has so many fewer words than are shown that it must have failed.
        Quiet can cause that in Moonshine.

        With bias, dither and the segmenter's cuts it did not happen once in 360 results for speech with seconds of quiet in it.
        """
        in_sight = len(self._words(self._shown))
        return in_sight >= FEW_WORDS and LOST_SHARE * len(self._words(tokens)) < in_sight

    def keep_what_is_in_sight(self) -> bool:
        """Make the shown text stable, so that the next hypothesis has it. Returns False if it already is."""
        is_new = self.forced < len(self._shown)
        self.draft, self.forced = self._shown, len(self._shown)
        self._is_small = self._begins_small(self._tokenizer.text(self._shown))
        return is_new

    @property
    def newest(self) -> Hypothesis:
        """The newest hypothesis of the open segment."""
        return self._recent[-1] if self._recent else NOTHING

    def commit(
        self,
        hypothesis: Hypothesis,
        start_ms: int,
        end_ms: int,
        rest: Hypothesis = NOTHING,
        words: tuple[Word, ...] | None = None,
        with_tokens: bool = False,
    ) -> None:
        """Close the open segment with its final hypothesis, which begins with the forced tokens or is the beginning of them.

        with_tokens: keep its tokens. rest: the rest of the same hypothesis. It is the first hypothesis of the next segment:
        its stable part remains stable, and as many words as were shown stay shown.
        """
        tokens = hypothesis.tokens
        if text := self._text_of(tokens):
            is_small = text != self._tokenizer.text(tokens)
            self._committed = join(self._committed, text)
            kept = self._probabilities(hypothesis, is_small) if with_tokens else ()
            if words and is_small:
                words = (dataclasses.replace(words[0], w=lowered(words[0].w)), *words[1:])
            self.segments.append(Segment(text, start_ms, end_ms, words, hypothesis.belief, kept))
        stable = max(0, self.forced - len(tokens)) if rest.tokens else 0
        in_sight = len(self._words(self._shown)) - len(self._words(tokens))
        first_was_small = bool(self._is_small) and not tokens
        self._open()
        self._goes_on = bool(text) and goes_on(self._committed)
        self._recent.extend([rest] if rest.tokens else [])
        self.draft, self.forced = rest.tokens, stable
        if stable:
            self._is_small = first_was_small  # the letter stays as it was written
        self._shown = rest.tokens[: max([stable, *(end for _, end in self._words(rest.tokens)[: max(0, in_sight)])])]

    def end_sentence(self) -> None:
        """Let the next text begin a new sentence: it does not continue the text before."""
        self._goes_on = False

    def _probabilities(self, hypothesis: Hypothesis, is_small: bool) -> tuple[TokenProbability, ...]:
        """Return the tokens with their probabilities. is_small: True if the first letter is in lower case."""
        first, *others = map(self._tokenizer.bytes_of, hypothesis.tokens)
        begin = first[: len(first) - len(first.lstrip())]
        shown = begin + lowered(first.lstrip().decode()).encode() if is_small else first
        return tuple(map(TokenProbability, [shown, *others], hypothesis.log_probs))

    def _confirm(self, judged: Sequence[WordBeliefs]) -> None:
        """Make words stable, in order, as far as the rules allow."""
        for each in itertools.takewhile(lambda each: each.meets(self._stable_rules), judged):
            self.forced = each.word[1]
            if self._is_small is None:
                self._is_small = self._begins_small(self._tokenizer.text(self.draft[: self.forced]))

    def _show(self, judged: Sequence[WordBeliefs], whole: Sequence[Span]) -> None:
        """Decide which words are shown: those of the newest hypothesis, as far as the rules allow.

        They replace the shown words if they continue them, or if those are contradicted. Otherwise only the new words are added
        after the shown ones. whole: words of the hypothesis that are followed by others or by a pause.
        """
        kept, end = common_prefix(self._shown, self.draft), self.forced
        for each in itertools.takewhile(lambda each: each.word[1] <= self.forced or each.meets(SHOWN_RULES), judged):
            end = max(end, each.word[1])
        if kept == len(self._shown):
            self._shown = self.draft[: max(end, kept)]
        elif self.forced > kept or self._is_contradicted():
            # As many words as before stay shown: a correction in the middle should not remove the words after it.
            before = self._words(self._shown)
            self._shown = self.draft[: max([end, *(last for _, last in whole[: len(before)])])]
        else:
            self._shown += self._news(self.draft[:end])

    def _news(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens that follow the shown words, counted from the last word that both have."""
        in_sight, newest = self._spelled(self._shown), self._spelled(tokens)
        *_, last, _ = [difflib.Match(0, 0, 0), *difflib.SequenceMatcher(None, in_sight, newest, False).get_matching_blocks()]
        begin = last.b + len(in_sight) - last.a
        return tuple(token for first, end in self._words(tokens)[begin:] for token in tokens[first:end])

    def _spelled(self, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the words without punctuation."""
        return [
            tuple(token for token in tokens[first:end] if not self._tokenizer.is_punctuation(token))
            for first, end in self._words(tokens)
        ]

    def _is_contradicted(self) -> bool:
        """True if the newest hypotheses differ from the shown words at the same place, and by the same word."""
        ours, newest = self._split(self._shown), self._split(self.draft)
        kept = common_prefix(ours, newest)
        needed = 2 if len(ours) - kept < FEW_BEHIND else 3
        recent = [self._split(each.tokens) for each in list(self._recent)[-needed:]]
        return len(recent) == needed and all(
            common_prefix(ours, words) == kept and words[: kept + 1] == newest[: kept + 1] for words in recent
        )

    def _split(self, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [tokens[first:end] for first, end in self._words(tokens)]

    def _beliefs(self, begin: int, end: int) -> list[Belief]:
        """Return the beliefs of the word that consists of these tokens of the draft."""
        found, word, punctuation = [], math.inf, math.inf
        for hypothesis in itertools.takewhile(lambda each: self._has_word(each, end), reversed(self._recent)):
            for token, log_prob in zip(self.draft[begin:end], hypothesis.log_probs[begin:end], strict=True):
                if self._tokenizer.is_punctuation(token):
                    punctuation = min(punctuation, log_prob)
                else:
                    word = min(word, log_prob)
            found.append((word, punctuation))
        return found

    def _has_word(self, hypothesis: Hypothesis, end: int) -> bool:
        tokens = hypothesis.tokens
        return tokens[:end] == self.draft[:end] and (len(tokens) == end or self._tokenizer.starts_word(tokens[end]))

    def _words(self, tokens: Sequence[int]) -> list[Span]:
        begins = [index for index, token in enumerate(tokens) if index == 0 or self._tokenizer.starts_word(token)]
        return list(itertools.pairwise([*begins, len(tokens)]))


def join(first: str, second: str) -> str:
    return f"{first} {second}" if first and second else first or second


def common_prefix(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the number of leading items that both have."""
    return next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
