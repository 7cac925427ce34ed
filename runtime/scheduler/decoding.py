"""Drafts, acceptance and stop rules of one row: tokens only, no arrays, no engine.

A decoding gives the tokens to feed next, and takes the model's choice after each of them. Fed tokens that the model would
have chosen itself are accepted; the first one that differs is replaced by the model's choice, and the rest of the draft is
offered again after it. The result is the same as that of greedy decoding, one token at a time.
"""

from collections.abc import Sequence

from runtime.engine.protocol import TokenBiases
from runtime.scheduler.keyterms import NOTHING_BEGUN, Keyterms

LOOK_AROUND_TOKENS = 12  # distance up to which a corrected token is searched for in the rest of the draft


class Decoding:
    """The decoding of one row, from the start token to its last."""

    def __init__(
        self,
        draft: Sequence[int],
        forced: int,
        max_tokens: int,
        start_token: int,
        end_token: int,
        keyterms: Keyterms | None = None,
    ):
        """draft: offered tokens, the first `forced` of them accepted unchecked; max_tokens: longest result."""
        if forced > len(draft):
            raise ValueError(f"{forced} tokens are forced but the draft has {len(draft)}")
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.done = False
        self.passes = 0
        self.single_steps = 0
        self.cut_short = False
        """True if it reached the token limit without an end token."""
        self.end_log_prob: float | None = None
        """Log probability of the end token that ended it."""
        self._draft = list(draft[:max_tokens])
        self._forced = min(forced, max_tokens)
        self._max_tokens = max_tokens
        self._end_token = end_token
        self._keyterms = keyterms
        self._begun = NOTHING_BEGUN
        """Terms that the tokens of the result have begun."""
        self.past_length = 0
        """Valid positions of the cache: the start token and the tokens of the result that were fed."""
        self._last = start_token
        self._next = 0  # index into the draft of the first token still offered
        self._matched = 0  # index after the last draft token that was right: insertions are searched for from here

    def next_tokens(self) -> tuple[int, ...]:
        """Return the block to feed: the last token decided, and the rest of the draft after it."""
        room = self._max_tokens - len(self.tokens) - 1
        return (self._last, *self._draft[self._next : self._next + max(0, room)])

    def next_biases(self) -> tuple[TokenBiases, ...]:
        """Return the biases for the choice after each token of next_tokens(); empty without keyterms."""
        if self._keyterms is None:
            return ()
        biases, begun = [self._keyterms.biases(self._begun)], self._begun
        for token in self.next_tokens()[1:]:
            begun = self._keyterms.after(begun, (token,))
            biases.append(self._keyterms.biases(begun))
        return tuple(biases)

    @property
    def may_continue_unseen(self) -> bool:
        """True if the step after the next one can be fed before the next one's answer is read.

        Never with keyterms, because the biases of a step depend on the token before. Without them it can if next_tokens() is a
        single token: the model's choice after it is fed next. If that choice is the end, the step is wasted; if the rest of the
        draft continues after it, the step feeds less than it could. The result is never wrong.
        """
        return self._keyterms is None and len(self.next_tokens()) == 1 and len(self.tokens) + 1 < self._max_tokens

    def accept(self, fed: Sequence[int], predicted: Sequence[int], log_probs: Sequence[float]) -> None:
        """Take the model's choice after each token of `fed`, the result of next_tokens()."""
        self.passes += 1
        self.single_steps += len(fed) == 1
        choices = list(predicted)
        if (forced := self._forced - len(self.tokens)) > 0:
            choices[:forced] = self._draft[len(self.tokens) : self._forced][: len(choices)]
        agreed = count_agreed(choices, fed)
        room = self._max_tokens - len(self.tokens)
        taken = choices[: min(agreed + 1, room)]
        if self._end_token in taken:
            end = taken.index(self._end_token)
            self.done, self.end_log_prob = True, log_probs[end]
            self._take(taken[:end], log_probs)
            self.past_length += 1  # the token before the end was fed, too
            return
        self._take(taken, log_probs)
        self._next += min(agreed, len(taken))
        if agreed:
            self._matched = self._next
        if len(taken) == room:
            self.done = self.cut_short = True
        else:
            self._realign(taken[-1])

    def _take(self, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        self.tokens += tokens
        self.log_probs += log_probs[: len(tokens)]
        self.past_length += len(tokens)
        self._last = self.tokens[-1] if tokens else self._last
        if self._keyterms is not None:
            self._begun = self._keyterms.after(self._begun, tokens)

    def _realign(self, choice: int) -> None:
        """Find the place where the draft continues after a token that it did not have here, and offer it from there.

        The nearest occurrence of the choice wins; without one, the choice replaces one token of the draft.
        """
        window = range(self._matched, min(len(self._draft), self._next + LOOK_AROUND_TOKENS))
        places = [index for index in window if self._draft[index] == choice]
        if places:
            self._next = min(places, key=lambda index: abs(index - self._next)) + 1
            self._matched = self._next
        else:
            self._next = min(self._next + 1, len(self._draft))


def count_agreed(choices: Sequence[int], fed: Sequence[int]) -> int:
    """Return the number of first choices that equal the token that was fed next."""
    for index in range(1, len(fed)):
        if choices[index - 1] != fed[index]:
            return index - 1
    return len(fed) - 1
