"""Hypotheses into text: what is committed, what is stable, what still moves. Pure bookkeeping, no clock, no engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.tokenizer import Tokenizer
from server.words import Word

STABLE_LOG_PROB = -0.25
"""A token is believed from this log-probability on (78%). Measured on unforced streams of the evaluation clips and samples
at 0.5 s: of 538 words, agreement of two hypotheses alone makes 75 stable that later audio would change, this none."""


@dataclass(frozen=True)
class Segment:
    """A closed stretch of audio and its final text."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] | None = None
    """None where they were not asked for."""


class Transcript:
    """The text of one session.

    Committed segments never change. In the open segment, the longest prefix that `agreement` hypotheses in a row share and
    believe becomes stable, up to the beginning of its last word: the word before that is complete. Whoever asks for the
    next hypothesis gives `draft` with its first `forced` tokens taken unseen, so that no later one can take it back.
    """

    def __init__(self, tokenizer: Tokenizer, agreement: int = 2):
        if agreement < 2:
            raise ValueError(f"agreement {agreement}: at least 2 hypotheses are needed to agree")
        self._tokenizer = tokenizer
        self._agreement = agreement
        self._committed = ""
        self.segments: list[Segment] = []
        self._open_text = ""
        self.draft: tuple[int, ...] = ()
        """The newest hypothesis of the open segment."""
        self.forced = 0
        """How many of the draft's tokens are stable."""
        self._witnesses: list[tuple[int, ...]] = []  # what the hypotheses before it believed, newest last

    @property
    def text(self) -> str:
        return join(self._committed, self._open_text)

    @property
    def stable(self) -> int:
        """Leading characters of text that will never change. Never decreases."""
        stable_open = self._tokenizer.text(self.draft[: self.forced])
        return len(join(self._committed, stable_open))

    def update(self, tokens: Sequence[int], log_probs: Sequence[float], may_confirm: bool) -> None:
        """Take a new hypothesis of the open segment, made with this transcript's draft and forced.

        may_confirm: its audio ended early enough that a coming cut cannot fall before its words (Segmenter.agreement_end).
        """
        tokens = tuple(tokens)
        believed = tokens[: believed_length(log_probs)]
        if len(self._witnesses) >= self._agreement - 1:
            agreed = min(common_prefix(witness, believed) for witness in self._witnesses)
            self.forced = max(self.forced, self._word_boundary(tokens, agreed))
        self._witnesses = [*self._witnesses, believed][1 - self._agreement :] if may_confirm else []
        self._show(tokens)

    def commit(self, tokens: Sequence[int], start_ms: int, end_ms: int, rest_follows: bool,
               words: tuple[Word, ...] | None = None) -> None:  # fmt: skip
        """Close the open segment with its final hypothesis.

        rest_follows: the cut went through sound, so what the last hypothesis had behind these tokens belongs to the next
        segment and stays in sight until that is heard.
        """
        rest = self._behind(tokens) if rest_follows else ()
        if text := self._tokenizer.text(tokens):
            self._committed = join(self._committed, text)
            self.segments.append(Segment(text, start_ms, end_ms, words))
        self.forced, self._witnesses = 0, []
        self._show(rest)

    def _show(self, tokens: tuple[int, ...]) -> None:
        self.draft = tokens
        self._open_text = self._tokenizer.text(tokens)

    def _word_boundary(self, tokens: tuple[int, ...], agreed: int) -> int:
        """The last index below `agreed` at which a word starts: all words before it are complete and agreed upon."""
        return max((index for index in range(1, agreed) if self._tokenizer.starts_word(tokens[index])), default=0)

    def _behind(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """What the last hypothesis has behind as many words as `tokens` are."""
        words = sum(map(self._tokenizer.starts_word, tokens))
        for index, token in enumerate(self.draft):
            if self._tokenizer.starts_word(token):
                if words == 0:
                    return self.draft[index:]
                words -= 1
        return ()


def join(first: str, second: str) -> str:
    return f"{first} {second}" if first and second else first or second


def believed_length(log_probs: Sequence[float]) -> int:
    """How many leading tokens the model is sure of."""
    return next((index for index, log_prob in enumerate(log_probs) if log_prob < STABLE_LOG_PROB), len(log_probs))


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens both have."""
    return next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
