"""Keyterms: words and phrases that a caller expects, favoured by biases of the logits.

While a row is decoded, the terms that its newest tokens have begun are kept as nodes of a prefix tree. The next token of each
such term, and the first token of every term, has a bias of boost * (1 + ln(depth)), where depth counts the term's tokens: the
formula of Moonshine's own library. A term that was just written is not favoured again at once: otherwise the model repeated a
term where it should have written nothing. The biases depend only on the tokens before, so a draft that is verified with them
gives the same result as decoding one token at a time.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from runtime.engine.protocol import MAX_BIASED_TOKENS, TokenBiases

REST_TOKENS = 2  # tokens after a term for which it is not favoured: a comma or colon, and the next token
MOST_KEPT_LISTS = 4096  # most lists of biases kept for one tree; when there are more, all are made again


@dataclass(frozen=True)
class Spelling:
    """One way to write a term."""

    tokens: tuple[int, ...]
    boost: float
    """Bias of the first favoured token's logit; more than 0."""
    unbiased: int = 0
    """Number of tokens at its beginning that are not favoured, because they begin all kinds of words."""


@dataclass(eq=False)
class Node:
    """The first tokens of a spelling."""

    bias: float = 0.0
    """Bias of the last token, after the tokens before it."""
    children: dict[int, "Node"] = field(default_factory=dict)
    ends: bool = False
    """True if a spelling ends here."""
    first: "Node | None" = None
    """Node of the first of these tokens."""


@dataclass(frozen=True)
class Begun:
    """Terms that the newest tokens have begun and ended."""

    nodes: tuple[Node, ...] = ()
    """Nodes that were reached and can continue, the longest first."""
    resting: tuple[tuple[Node, int], ...] = ()
    """First nodes of terms that were just written, and the number of tokens for which they are not favoured."""


NOTHING_BEGUN = Begun()


@dataclass(frozen=True)
class Keyterms:
    """The terms of a stream. Equal ones have equal spellings."""

    spellings: tuple[Spelling, ...]

    @cached_property
    def _root(self) -> Node:
        root = Node()
        for spelling in self.spellings:
            node = root
            for place, token in enumerate(spelling.tokens):
                child = node.children.setdefault(token, Node())
                child.first = node.first or child
                node = child
                if place >= spelling.unbiased:
                    node.bias = max(node.bias, spelling.boost * (1 + math.log(1 + place - spelling.unbiased)))
            node.ends = True
        return root

    @cached_property
    def _lists(self) -> dict[tuple[tuple[Node, ...], frozenset[Node]], TokenBiases]:
        return {}

    def after(self, begun: Begun, tokens: Iterable[int]) -> Begun:
        """Return the terms begun and ended after these tokens."""
        for token in tokens:
            found = (node.children.get(token) for node in (*begun.nodes, self._root))
            reached = [node for node in found if node is not None]
            said = [(node.first, REST_TOKENS) for node in reached if node.ends and node.first]
            still = [(first, rest - 1) for first, rest in begun.resting if rest > 1]
            begun = Begun(tuple(node for node in reached if node.children), tuple((dict(still) | dict(said)).items()))
        return begun

    def biases(self, begun: Begun) -> TokenBiases:
        """Return the biases of the next token, the same object for the same nodes: engines take each list once."""
        key = begun.nodes, frozenset(first for first, _ in begun.resting)
        if key not in self._lists:
            if len(self._lists) >= MOST_KEPT_LISTS:
                self._lists.clear()
            self._lists[key] = self._made(*key)
        return self._lists[key]

    def _made(self, nodes: tuple[Node, ...], resting: frozenset[Node]) -> TokenBiases:
        values: dict[int, float] = {}
        for node in (*nodes, self._root):
            for token, child in node.children.items():
                if child not in resting and child.bias > 0.0:
                    values[token] = max(values.get(token, 0.0), child.bias)
        highest = sorted(values, key=lambda token: (-values[token], token))[:MAX_BIASED_TOKENS]
        tokens = sorted(highest)
        return TokenBiases(np.array(tokens, np.int64), np.array([values[token] for token in tokens], np.float32))
