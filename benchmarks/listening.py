"""Measures of live captions: the words that a stream's client saw, and their times."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.harness.accuracy import normalise
from server.stream.transcript import common_prefix

LOOK_AHEAD_WORDS = 5  # a moving text may have that many words more or fewer than the final one at the same place


@dataclass(frozen=True)
class SeenWord:
    """One word of a final text, in milliseconds of the stream."""

    text: str
    end_ms: float
    """Time when it ended in the audio."""
    appeared_ms: float
    """Time when it first appeared in the text, at its final place."""
    stable_ms: float
    """Time when it was first within `stable`."""


@dataclass
class Listening:
    """Measures of one stream's messages."""

    words: list[SeenWord] = field(default_factory=list)
    unstable_words: int = 0
    """Number of shown words from the first one on that the next message changed or removed; divided by all final words, it is the
    unstable partial word ratio (UPWR, Shangguan et al. 2020)."""
    unstable_as_shown: int = 0
    """The same number, with case and punctuation compared."""
    violations: int = 0
    """Messages that changed or removed stable text."""
    interims: int = 0
    final_latency_ms: float = 0.0


def listen(messages: Sequence[tuple[float, dict]], closed_at: float) -> Listening:
    """Measure messages. messages: each with its time in seconds, the last a final with words. closed_at: end of the audio."""
    interims = [(at, message) for at, message in messages if message["op"] == "interim"]
    final_at, final = messages[-1]
    shown = [*interims, (final_at, final)]
    found = Listening(interims=len(interims), final_latency_ms=(final_at - closed_at) * 1000)
    for (_, before), (_, after) in zip(shown, shown[1:], strict=False):
        stable = before["stable"]
        found.violations += after["stable"] < stable or after["text"][:stable] != before["text"][:stable]
        moving, then = before["text"][stable:], after["text"][stable:]
        found.unstable_words += taken_back(words_of(moving), words_of(then))
        found.unstable_as_shown += taken_back(moving.split(), then.split())
    found.words = when_words_came(shown, final)
    return found


def taken_back(before: Sequence[str], after: Sequence[str]) -> int:
    """Return the number of words of `before` from the first one on that `after` does not have at its place."""
    return len(before) - common_prefix(before, after)


def words_of(text: str) -> list[str]:
    """Return the words of a text as WER compares them; punctuation alone is no word."""
    return [word for word in map(normalise, text.split()) if word]


def when_words_came(shown: Sequence[tuple[float, dict]], final: dict) -> list[SeenWord]:
    ends, position = [], 0  # of each word within the final text
    for word in final["words"]:
        position = final["text"].index(word["w"], position) + len(word["w"])
        ends.append(position)
    texts = [normalise(word["w"]) for word in final["words"]]
    appeared: list[float | None] = [None] * len(texts)
    stable: list[float | None] = [None] * len(texts)
    settled = 0  # words within `stable`
    for at, message in shown:
        begin = settled
        while settled < len(ends) and ends[settled] <= message["stable"]:
            stable[settled] = at
            appeared[settled] = at if appeared[settled] is None else appeared[settled]
            settled += 1
        moving = words_of(message["text"][ends[begin - 1] if begin else 0 :])
        awaited = texts[begin : begin + len(moving) + LOOK_AHEAD_WORDS]
        for block in difflib.SequenceMatcher(None, moving, awaited, autojunk=False).get_matching_blocks():
            for index in range(begin + block.b, begin + block.b + block.size):
                appeared[index] = at if appeared[index] is None else appeared[index]
    return [
        SeenWord(word["w"], word["end_ms"], appeared[index] * 1000, stable[index] * 1000)
        for index, word in enumerate(final["words"])
    ]
