"""Repetition: a hypothesis that has run away, because the model repeats a phrase again and again.

People do say a word eight times, and the model then ends by itself. A hypothesis has run away only if it reached the token limit
of its audio in the middle of a repetition.
"""

from collections.abc import Sequence

LONGEST_PHRASE_TOKENS = 24


def said_once(tokens: Sequence[int]) -> int | None:
    """Return the number of tokens up to the end of the phrase that a hypothesis repeats, at its first occurrence.

    The hypothesis was cut short. None if it does not end in a repetition.
    """
    for length in range(1, min(LONGEST_PHRASE_TOKENS, len(tokens) // 2) + 1):
        repeated = next(
            (
                count
                for count, index in enumerate(range(len(tokens) - 1, length - 1, -1))
                if tokens[index] != tokens[index - length]
            ),
            len(tokens) - length,
        )
        if repeated >= length:
            return len(tokens) - repeated
    return None
