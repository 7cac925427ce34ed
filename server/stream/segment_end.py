"""The end of a segment: how much of an attempt is committed, and where the next segment begins."""

from dataclasses import dataclass

from runtime.audio import SAMPLE_RATE
from runtime.tokenizer import Tokenizer
from server.stream.retries import Attempt
from server.stream.segmenter import Cut, CutKind, Segmenter
from server.stream.transcript import NOTHING, Hypothesis
from server.stream.word_times import TimedHypothesis, Word, locate

LONGEST_WORD_SAMPLES = SAMPLE_RATE * 13 // 10  # a word is over this long after its start
PLACE_SAMPLES = SAMPLE_RATE // 2  # window in which the quietest place is taken


@dataclass(frozen=True)
class SegmentEnd:
    """The committed part of an attempt."""

    committed: Hypothesis
    position: int
    """Position where the segment ends and the next one begins."""
    words: tuple[Word, ...] = ()
    """Times of the committed words, if they are known."""
    rest: Hypothesis = NOTHING
    """Tokens that belong to the next segment."""


def end_of(attempt: Attempt, cut: Cut, segmenter: Segmenter, tokenizer: Tokenizer) -> SegmentEnd:
    """Commit an attempt up to the cut, or as far as it can be trusted. The rest is transcribed again."""
    hypothesis, position, rest = attempt.hypothesis, cut.position, NOTHING
    spoken = located(attempt, cut.position, segmenter, tokenizer)
    count = len(spoken.begins) - 1 if spoken else 0
    if spoken and attempt.ran_away:
        count = spoken.whole_words(len(hypothesis.tokens))
        position = spoken.end_of(count, default=cut.position)
        hypothesis, _ = hypothesis.divided(spoken.begins[count])
    elif spoken and cut.kind is CutKind.LENGTH and (after := after_last_word(spoken, cut)):
        position = segmenter.place(after, ())
    elif cut.kind is CutKind.LENGTH:
        position = segmenter.place(cut, spoken.between_words if spoken else ())
        count = spoken.words_before(position) if spoken else 0
        hypothesis, rest = hypothesis.divided(spoken.begins[count] if spoken else 0)
    words = spoken.words(tokenizer, count, position) if spoken else ()
    return SegmentEnd(hypothesis, position, words, rest)


def after_last_word(spoken: TimedHypothesis, cut: Cut) -> Cut | None:
    """Return a cut after the last word if all words begin before the window of a cut by length: the sound in it is no word."""
    assert cut.earliest is not None, "a cut by length has a window"
    begin = spoken.last_begin
    earliest = max(cut.earliest, begin + LONGEST_WORD_SAMPLES)
    if begin >= cut.earliest or earliest + PLACE_SAMPLES > cut.position:
        return None
    return Cut(earliest + PLACE_SAMPLES, CutKind.LENGTH, earliest)


def located(attempt: Attempt, end: int, segmenter: Segmenter, tokenizer: Tokenizer) -> TimedHypothesis | None:
    """Locate the words of an attempt in the stream; None if it has no words, or their times were not requested."""
    result = attempt.result
    if not attempt.hypothesis.tokens or not result.first_frames:
        return None
    clip, pauses = result.request.clip, segmenter.pauses(end)
    return locate(result.tokens, result.log_probs, result.first_frames, tokenizer, clip, pauses, result.frame_samples)
