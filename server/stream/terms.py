"""Terms that a client expects, and how the model may write them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from runtime.scheduler.keyterms import Keyterms, Spelling
from runtime.tokenizer import Tokenizer

DEFAULT_BOOST = 2.0
"""Measured: docs/quality.md. A higher boost finds few more terms, and from 3 on loses other words."""
CACHED_TERM_LISTS = 64  # the chunks of one recording have the same terms
SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9d]")
"""First letters of scripts that put no space before a word: Thai, Lao, Burmese, Khmer, Kana, Han."""


@dataclass(frozen=True)
class Term:
    """A word or phrase."""

    text: str
    boost: float = DEFAULT_BOOST
    """Gain of its first token's logit; more than 0."""


@lru_cache(CACHED_TERM_LISTS)
def keyterms_of(terms: Sequence[Term], tokenizer: Tokenizer) -> Keyterms | None:
    """Return the terms in all spellings that the model's vocabulary can write; None if there are none."""
    spellings = {tokens: term.boost for term in terms for tokens in spelled(term.text, tokenizer)}
    found = (Spelling(tokens, boost, count_unbiased(tokens, tokenizer)) for tokens, boost in spellings.items())
    return Keyterms(tuple(found)) if spellings else None


def count_unbiased(tokens: Sequence[int], tokenizer: Tokenizer) -> int:
    """Return the number of leading tokens that do not identify the term: a space alone, the first bytes of a character."""
    for count in range(len(tokens)):
        if tokenizer.text(tokens[: count + 1]):
            return count
    return 0


def spelled(text: str, tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """Yield a term as tokens, as it is and with a capital letter. A term that the vocabulary cannot write yields nothing.

    The space before it is part of its first token; without it the term would be favoured within words.
    """
    leads = (" ", "") if SPACELESS.match(text) else (" ",)
    for written in {text: None, text[:1].upper() + text[1:]: None}:
        for lead in leads:
            try:
                yield tokenizer.tokens(lead + written)
            except ValueError:
                return
