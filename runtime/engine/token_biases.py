"""The lists of biases of one pass, as engines take them: each different list once, and for each token fed its list's number."""

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.engine.protocol import MAX_BIAS_LISTS, MAX_BIASED_TOKENS, Row, TokenBiases
from runtime.engine.staging import Layout

NO_BIASES = TokenBiases(np.zeros(0, np.int64), np.zeros(0, np.float32))
TABLE_LAYOUT = Layout(
    tokens=(np.int64, (MAX_BIAS_LISTS, MAX_BIASED_TOKENS)), values=(np.float32, (MAX_BIAS_LISTS, MAX_BIASED_TOKENS))
)


class BiasLists:
    """The different lists of a pass. Number 0 is the empty list, for rows without biases."""

    def __init__(self) -> None:
        self._numbers = {id(NO_BIASES): 0}  # by identity: rows of one stream share their lists
        self.lists = [NO_BIASES]

    @property
    def are_empty(self) -> bool:
        """True if no row of the pass has biases."""
        return len(self.lists) == 1

    def numbers_of(self, biases: Sequence[TokenBiases]) -> list[int]:
        """Return the number of each list; new lists are added."""
        return list(map(self._number_of, biases))

    def _number_of(self, biases: TokenBiases) -> int:
        number = self._numbers.setdefault(id(biases), len(self.lists))
        if number == len(self.lists):
            self.lists.append(biases)
        return number

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lists as int64 and float32 (lists, biased), padded with token 0 and a bias of 0."""
        shape = (len(self.lists), max(1, *(len(each.tokens) for each in self.lists)))
        tokens, values = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        self.fill(tokens, values)
        return tokens, values

    def fill(self, tokens: np.ndarray, values: np.ndarray) -> None:
        """Write the lists into the first rows of a table, see table()."""
        for line, each in enumerate(self.lists):
            count = len(each.tokens)
            tokens[line, :count], values[line, :count] = each.tokens, each.values
            tokens[line, count:], values[line, count:] = 0, 0.0


def within_lists(rows: Sequence[Row], indices: Sequence[int]) -> Iterator[list[int]]:
    """Split rows, by their indices, into parts that have MAX_BIAS_LISTS different lists at most."""
    if not any(rows[index].biases for index in indices):  # as in most passes, which must lose no time here
        yield list(indices)
        return
    part: list[int] = []
    lists: set[int] = set()
    for index in indices:
        own = set(map(id, rows[index].biases))
        if part and len(lists | own) >= MAX_BIAS_LISTS:
            yield part
            part, lists = [], set()
        part.append(index)
        lists |= own
    yield part
