"""Word times: from the frames of a clip to milliseconds of the stream."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, Clip
from runtime.tokenizer import Tokenizer
from server.stream.confidence import word_confidence

LAG_SAMPLES = SAMPLE_RATE * 20 // 1000  # by which attention comes late (measured: the median, where no pause helps)
REACH_SAMPLES = SAMPLE_RATE * 200 // 1000  # a pause this near to where a word should end is where it ends

Range = tuple[int, int]
"""First sample and the one behind the last, as positions in the stream."""


@dataclass(frozen=True)
class Word:
    """A word and its times, as messages carry it."""

    w: str
    """The word as in the text, with its punctuation."""
    start_ms: int
    end_ms: int
    confidence: float = 1.0
    """Probability that the word is right, from 0 to 1: see confidence.py."""

    def later(self, milliseconds: int) -> "Word":
        return dataclasses.replace(self, start_ms=self.start_ms + milliseconds, end_ms=self.end_ms + milliseconds)


@dataclass(frozen=True)
class TimedHypothesis:
    """A hypothesis and where in the stream it was spoken."""

    tokens: tuple[int, ...]
    begins: list[int]
    """Index of each word's first token, and the number of tokens."""
    gaps: list[Range]
    """Gaps before each word and after the last: pauses, or empty ranges."""
    log_probs: tuple[float, ...]
    """Log-probability of each token."""

    @property
    def between_words(self) -> list[int]:
        """A position in every gap; behind the last word only if a pause is there: the clip's end alone is no end of a word."""
        middles = self._middles
        return middles if self.gaps[-1][0] < self.gaps[-1][1] else middles[:-1]

    @property
    def _middles(self) -> list[int]:
        return [(first + last) // 2 for first, last in self.gaps]

    @property
    def last_begin(self) -> int:
        """Position where the last word begins."""
        return self.gaps[-2][1]

    def words_before(self, position: int) -> int:
        """Number of words before a position in or near a gap."""
        middles = self._middles
        return min(range(len(middles)), key=lambda index: abs(middles[index] - position))

    def whole_words(self, tokens: int) -> int:
        """Number of whole words within the first `tokens` tokens."""
        return bisect.bisect_right(self.begins, tokens) - 1

    def end_of(self, count: int, default: int) -> int:
        """A position behind the first `count` words; the default where that is not behind the first word's beginning."""
        position = self._middles[count]
        return position if self.gaps[0][1] < position < default else default

    def words(self, tokenizer: Tokenizer, count: int, end: int) -> tuple[Word, ...]:
        """The first `count` words with their times, in order, without overlap and before position `end`."""
        words = []
        for index in range(count):
            first, last = self.begins[index], self.begins[index + 1]
            if text := tokenizer.text(self.tokens[first:last]):
                start, stop = min(end, self.gaps[index][1]), min(end, self.gaps[index + 1][0])
                confidence = self._confidence(tokenizer, first, last)
                words.append(Word(text, start * 1000 // SAMPLE_RATE, stop * 1000 // SAMPLE_RATE, confidence))
        return tuple(words)

    def _confidence(self, tokenizer: Tokenizer, first: int, last: int) -> float:
        """Return the confidence of a word. Its punctuation says nothing of it, unless it is nothing else."""
        pairs = list(zip(self.tokens[first:last], self.log_probs[first:last], strict=True))
        said = [log_prob for token, log_prob in pairs if not tokenizer.is_punctuation(token)]
        return word_confidence(said or [log_prob for _, log_prob in pairs])


def locate(
    tokens: Sequence[int],
    log_probs: Sequence[float],
    first_frames: Sequence[int],
    tokenizer: Tokenizer,
    clip: Clip,
    pauses: Sequence[Range],
    frame_samples: int = SAMPLES_PER_FRAME,
) -> TimedHypothesis:
    """Find the words of a clip's hypothesis in the stream.

    first_frames: of each token in the clip, and the one behind the last. pauses: the quiet ranges of the stream there.
    """
    kept = clip.ranges or ((clip.position, clip.position + len(clip.pcm)),)

    def position(frame: int, lag: int = 0, is_end: bool = False) -> int:
        return stream_position(kept, max(0, frame * frame_samples - lag - clip.quiet_before), is_end)

    begins = [index for index, token in enumerate(tokens) if index == 0 or tokenizer.starts_word(token)]
    limits = [position(first_frames[index], LAG_SAMPLES) for index in begins]
    limits.append(position(first_frames[-1], is_end=True))
    return TimedHypothesis(tuple(tokens), [*begins, len(tokens)], fit_pauses(limits, pauses), tuple(log_probs))


def fit_pauses(limits: Sequence[int], pauses: Sequence[Range]) -> list[Range]:
    """Fit the limits between words to pauses: the pause that a limit meant, if there is one, or nothing.

    Attention says on which side of a pause a word is, not where in the pause it ends, and may err by some frames. A pause goes
    to the limit nearest to it, if that is within REACH.
    """
    gaps = [(limit, limit) for limit in limits]
    nearest: dict[int, int] = {}  # by index of a limit: the distance of the pause it has
    for first, last in pauses:
        distances = [max(first - limit, limit - last, 0) for limit in limits]
        index = min(range(len(limits)), key=distances.__getitem__)
        if distances[index] <= REACH_SAMPLES and distances[index] < nearest.get(index, math.inf):
            nearest[index], gaps[index] = distances[index], (first, last)
    # A pause may reach past the limits beside its own: what they divide is then divided at its end.
    for index, (first, last) in enumerate(gaps[1:], start=1):
        gaps[index] = (max(first, gaps[index - 1][1]), max(last, gaps[index - 1][1]))
    return gaps


def stream_position(kept: Sequence[Range], sample: int, is_end: bool = False) -> int:
    """Position in the stream of a sample of the clip. One between two pieces is in the later one; as an end, in the former."""
    ends = list(itertools.accumulate(last - first for first, last in kept))  # within the clip
    place = bisect.bisect_left(ends, sample) if is_end else bisect.bisect_right(ends, sample)
    if place >= len(kept):
        return kept[-1][1]  # frames reach a little past a clip that is shorter than one of them
    return kept[place][1] - (ends[place] - sample)
