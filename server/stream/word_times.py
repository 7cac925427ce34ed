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

LAG_SAMPLES = SAMPLE_RATE * 20 // 1000  # delay of the attention (measured: the median, where no pause helps)
REACH_SAMPLES = SAMPLE_RATE * 200 // 1000  # a word ends at a pause if the pause is this near to the word's estimated end

Range = tuple[int, int]
"""First sample and the one after the last, as positions in the stream."""


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
    """A hypothesis with the positions of its words in the stream."""

    tokens: tuple[int, ...]
    begins: list[int]
    """Index of each word's first token, and the number of tokens."""
    gaps: list[Range]
    """Gaps before each word and after the last: pauses, or empty ranges."""
    log_probs: tuple[float, ...]
    """Log-probability of each token."""

    @property
    def between_words(self) -> list[int]:
        """A position in every gap. The last gap counts only if it is a pause: a clip does not always end after a whole word."""
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
        """Return a position after the first `count` words; the default unless it lies between the first word's start and that."""
        position = self._middles[count]
        return position if self.gaps[0][1] < position < default else default

    def words(self, tokenizer: Tokenizer, count: int, end: int) -> tuple[Word, ...]:
        """Return the first `count` words with their times, in order, without overlap and before position `end`."""
        words = []
        for index in range(count):
            first, last = self.begins[index], self.begins[index + 1]
            if text := tokenizer.text(self.tokens[first:last]):
                start, stop = min(end, self.gaps[index][1]), min(end, self.gaps[index + 1][0])
                confidence = self._confidence(tokenizer, first, last)
                words.append(Word(text, start * 1000 // SAMPLE_RATE, stop * 1000 // SAMPLE_RATE, confidence))
        return tuple(words)

    def _confidence(self, tokenizer: Tokenizer, first: int, last: int) -> float:
        """Return the confidence of a word. Punctuation counts only if the word has nothing else."""
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

    first_frames: the first frame of each token in the clip, and the frame after the last token. pauses: the quiet ranges in this
    part of the stream.
    """
    kept = clip.ranges or ((clip.position, clip.position + len(clip.pcm)),)

    def position(frame: int, lag: int = 0, is_end: bool = False) -> int:
        return stream_position(kept, max(0, frame * frame_samples - lag - clip.quiet_before), is_end)

    begins = [index for index, token in enumerate(tokens) if index == 0 or tokenizer.starts_word(token)]
    limits = [position(first_frames[index], LAG_SAMPLES) for index in begins]
    limits.append(position(first_frames[-1], is_end=True))
    return TimedHypothesis(tuple(tokens), [*begins, len(tokens)], fit_pauses(limits, pauses), tuple(log_probs))


def fit_pauses(limits: Sequence[int], pauses: Sequence[Range]) -> list[Range]:
    """Match the limits between words to pauses. Returns the gap at each limit: its pause, or an empty range.

    Attention shows on which side of a pause a word is, but not where in the pause it ends, and may be wrong by some frames. A
    pause goes to the nearest limit, if that is within REACH_SAMPLES.
    """
    gaps = [(limit, limit) for limit in limits]
    nearest: dict[int, int] = {}  # index of a limit: distance of its pause
    for first, last in pauses:
        distances = [max(first - limit, limit - last, 0) for limit in limits]
        index = min(range(len(limits)), key=distances.__getitem__)
        if distances[index] <= REACH_SAMPLES and distances[index] < nearest.get(index, math.inf):
            nearest[index], gaps[index] = distances[index], (first, last)
    # A pause may extend past the next limits. These limits then move to the end of the pause.
    for index, (first, last) in enumerate(gaps[1:], start=1):
        gaps[index] = (max(first, gaps[index - 1][1]), max(last, gaps[index - 1][1]))
    return gaps


def stream_position(kept: Sequence[Range], sample: int, is_end: bool = False) -> int:
    """Return the position in the stream of a sample of the clip.

    A sample at the border of two ranges belongs to the later one; with is_end, to the earlier one.
    """
    ends = list(itertools.accumulate(last - first for first, last in kept))  # within the clip
    place = bisect.bisect_left(ends, sample) if is_end else bisect.bisect_right(ends, sample)
    if place >= len(kept):
        return kept[-1][1]  # frames extend a little past a clip that is shorter than a frame
    return kept[place][1] - (ends[place] - sample)
