"""The open segment of one stream's audio, and where to cut it. A function of the samples alone: no clock, no model.

Every sample belongs to exactly one segment. Cuts decide what the model hears together:
- at a pause after speech, the shorter the longer the segment already is: words on both sides help each other, so a short
  segment is only given up for a pause that ends what was said;
- shortly before sound begins, after a while of quiet: quiet before speech is what empties Moonshine's transcripts;
- in unbroken sound, at the quietest point between two words in the window before the segment grows past its maximum; where the
  words are is for the model to say;
- in unbroken quiet, every few seconds.
Within a segment, a pause is heard as a short one: of a longer stretch of background, what lies in its middle is left out.
That costs the model nothing, its time less, and keeps two halves of a sentence together over a speaker's thinking.
"""

import enum
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.audio import Clip, offset_of
from runtime.audio_buffer import AudioBuffer
from server.stream.edges import TAIL_SAMPLES, Lead
from server.stream.loudness import LEVEL_SAMPLES, LEVELS_PER_SECOND, Loudness, levels_and_sums_of, levels_of

BLOCK_LEVELS = 5  # levels are taken in blocks of 100 ms: one numpy call instead of five
ONSET_LEVELS = 2  # this many loud levels in a row are the beginning of sound

LEAD_SECONDS = 0.4  # of quiet kept before sound
LONG_LEAD_SECONDS = 0.8  # more quiet than this before sound is cut off, down to LEAD_SECONDS
QUIET_SECONDS = 3.0  # length of a segment without sound
PAUSES = ((0.0, 2.5), (6.0, 2.5), (8.0, 0.5), (12.0, 0.2))  # seconds heard so far: seconds of pause that end the segment
PAUSE_LEVELS: list[float] = (
    LEVELS_PER_SECOND
    * np.interp(
        np.arange(PAUSES[-1][0] * LEVELS_PER_SECOND + 1) / LEVELS_PER_SECOND,
        [seconds for seconds, _ in PAUSES],
        [pause for _, pause in PAUSES],
    )
).tolist()
"""Longest pauses by the number of levels received; the last one also for more."""
KEPT_PAUSE_SECONDS = 0.6  # of a longer pause, this much is heard: half at each end
KEPT_PAUSE_LEVELS = int(KEPT_PAUSE_SECONDS * LEVELS_PER_SECOND)
NEAR_LEVELS = 6  # 120 ms
BETWEEN_WORDS_LEVELS = 4  # 80 ms: the closure before a p or t is shorter


class CutKind(enum.Enum):
    PAUSE = "pause"
    QUIET = "quiet"
    LENGTH = "length"
    END = "end"  # of the stream


@dataclass(frozen=True)
class Cut:
    """A position where the open segment should end."""

    position: int
    """Sample index within the stream, after the last sample of the segment; of a cut by length, the latest there may be."""
    kind: CutKind
    earliest: int | None = None
    """Start of the search window in samples, for a cut by length; place() decides within it."""


class Segmenter:
    """Holds the audio from the open segment's start to the newest sample."""

    def __init__(self, max_seconds: float = 12.0, window_seconds: float = 3.0):
        """max_seconds: longest segment; window_seconds: how much before that a cut is looked for."""
        self._max_levels = int(max_seconds * LEVELS_PER_SECOND)
        self._window_levels = int(window_seconds * LEVELS_PER_SECOND)
        self._pcm = AudioBuffer()  # from self.start on
        self._levels: list[float] = []  # dB of full scale, from self.start on; may end some 100 ms before the audio
        self._sums = [0.0]  # of all samples before each level, and before the first one without a level
        self._loud: list[bool] = []  # the same levels, held against the background at their time
        self._gains_db: list[float] = []  # what the speaker was to be raised by, as of each of these levels
        self._loud_until = 0  # the level behind the last loud one
        self._loudness = Loudness()
        self.start = 0
        """Position of the open segment's first sample in the stream."""
        self._open()

    def _open(self) -> None:
        self._scanned = 0  # levels of the open segment that the search for a cut has seen
        self._sound_at: int | None = None  # level at which sound began
        self._quiet_run = 0  # levels of quiet at the end of what was scanned
        self._kept_levels = 0  # of the levels scanned, those that clip() does not leave out
        self._window_at: int | None = None  # level at which the window for a cut by length begins
        self._cut: Cut | None = None

    @property
    def end(self) -> int:
        """Position behind the newest sample."""
        return self.start + len(self._pcm)

    @property
    def measured_until(self) -> int:
        """Position after the last sample that has a level."""
        return self._position_of(len(self._levels))

    @property
    def end_of_update(self) -> int:
        """Position up to which an update can be transcribed now."""
        return self.end

    @property
    def has_sound(self) -> bool:
        """True if anything in the open segment has risen above the background."""
        return self._sound_at is not None

    @property
    def loud_until(self) -> int:
        """Position behind the last sound in the open segment; its start where there is none."""
        return self._position_of(self._loud_until)

    def is_quiet_from(self, position: int, end: int | None = None) -> bool:
        """True if nothing is loud from there to `end`; by default to the end of all samples, also those without a level yet."""
        first, last = (max(each, self.start) - self.start for each in (position, self.end if end is None else end))
        if first >= last:
            return True
        samples = self._pcm.read(first, last)
        whole = np.resize(samples, -(-len(samples) // LEVEL_SAMPLES) * LEVEL_SAMPLES)  # filled up with its own beginning
        return max(levels_of(whole)) <= self._loudness.quiet_db

    def newest(self, samples: int) -> np.ndarray:
        """Return the newest samples of the open segment, int16, at most so many."""
        return self._pcm.read(max(0, len(self._pcm) - samples), len(self._pcm))

    def append(self, pcm: bytes) -> list[bool]:
        """Hold audio and measure it. Returns of each new level whether it is sound."""
        self.hold(pcm)
        return self.measure()

    def hold(self, pcm: bytes) -> None:
        """pcm: PCM16 mono little-endian, whole samples. It has no levels until measure()."""
        self._pcm.append(pcm)

    @property
    def has_block(self) -> bool:
        """True if there is audio enough for levels that measure() has not measured."""
        return len(self._pcm) >= (len(self._levels) + BLOCK_LEVELS) * LEVEL_SAMPLES

    def find_cut(self) -> Cut | None:
        """The open segment's first cut in the audio so far; the same answer until advance(). place() one by length."""
        while self._cut is None and self._scanned < len(self._levels):
            self._cut = self._scan(self._scanned)
            self._scanned += 1
        return self._cut

    def clip(self, end: int) -> Clip:
        """The open segment's audio up to position `end`, raised to a common loudness, the middle of long pauses left out."""
        return self._clip(end, self.kept(end))

    def clip_so_far(self, end: int) -> Clip:
        """The same with silence where less than TAIL_SAMPLES of quiet lie behind the last sound."""
        return self._clip(end, self.kept(end), 0, max(0, self.sound(end)[1] + TAIL_SAMPLES - end))

    def closing_clip(self, cut: Cut) -> Clip | None:
        """The clip of a first attempt at a segment; None where edges are to be chosen for it.

        A cut by length goes through what is said, and a quiet segment has no edges.
        """
        return self.clip(cut.position) if cut.kind in (CutKind.LENGTH, CutKind.QUIET) else None

    def clip_between(self, end: int, lead: Lead) -> Clip:
        """The same with so much quiet before the first sound, and TAIL_SAMPLES of it behind the last."""
        first, last = self.sound(end)
        begin = first - lead if lead is not None else self.start
        finish = last + TAIL_SAMPLES
        ranges = [(max(left, begin), min(right, finish)) for left, right in self.kept(end) if right > begin and left < finish]
        return self._clip(end, ranges, max(0, self.start - begin), max(0, finish - end))

    def _clip(self, end: int, ranges: Sequence[tuple[int, int]], quiet_before: int = 0, quiet_behind: int = 0) -> Clip:
        gain = self._gain(end)
        total, count = sum(self._sum(*each) for each in ranges), sum(last - first for first, last in ranges)
        offset = offset_of(total, count, gain)
        return Clip(self._pcm.read(0, end - self.start), self.start, tuple(ranges), offset, gain, quiet_before, quiet_behind)

    def _sum(self, begin: int, end: int) -> int:
        """Return the sum of the samples from one position to another: of the levels in between, and of what is beside them."""
        begin, end = begin - self.start, end - self.start
        first, last = -(-begin // LEVEL_SAMPLES), min(end // LEVEL_SAMPLES, len(self._levels))
        if first >= last:
            return self._sum_of_samples(begin, end)
        beside = self._sum_of_samples(begin, first * LEVEL_SAMPLES) + self._sum_of_samples(last * LEVEL_SAMPLES, end)
        return int(self._sums[last] - self._sums[first]) + beside

    def _sum_of_samples(self, first: int, last: int) -> int:
        return int(self._pcm.read(first, last).sum(dtype=np.int64)) if first < last else 0

    def _gain(self, end: int) -> float:
        """Gain as of the last level before position `end`, so that a second attempt receives what the first one did."""
        levels = self._gains_db[: (end - self.start) // LEVEL_SAMPLES]
        return float(10 ** (levels[-1] / 20)) if levels else 1.0

    def sound(self, end: int) -> tuple[int, int]:
        """Positions of the first sound in the open segment before position `end`, and behind the last; all of it where there is
        none."""
        loud = self._loud[: -(-(end - self.start) // LEVEL_SAMPLES)]
        if True not in loud:
            return self.start, end
        first, last = self._position_of(loud.index(True)), self._position_of(len(loud) - loud[::-1].index(True))
        measured = self._position_of(len(loud))
        return first, end if measured < end and not self.is_quiet_from(measured) else min(end, last)

    def kept(self, end: int) -> list[tuple[int, int]]:
        """The ranges that clip(end) consists of: of each, the position of the first sample and of the one behind the last."""
        ranges, begin = [], self.start
        for first, last in quiet_ranges(self._loud[: (end - self.start) // LEVEL_SAMPLES]):
            if last - first > KEPT_PAUSE_LEVELS:
                ranges.append((begin, self._position_of(first + KEPT_PAUSE_LEVELS // 2)))
                begin = self._position_of(last - KEPT_PAUSE_LEVELS // 2)
        return [*ranges, (begin, end)]

    def pauses(self, end: int) -> list[tuple[int, int]]:
        """The quiet ranges before position `end` that are long enough to lie between words; like kept()."""
        loud = self._loud[: (end - self.start) // LEVEL_SAMPLES]
        ranges = [
            (self._position_of(first), self._position_of(last))
            for first, last in quiet_ranges(loud)
            if last - first >= BETWEEN_WORDS_LEVELS
        ]
        if ranges and ranges[-1][1] == self._position_of(len(loud)):
            ranges[-1] = (ranges[-1][0], end)  # the last samples have no level yet
        return ranges

    def _position_of(self, level: int) -> int:
        return self.start + level * LEVEL_SAMPLES

    def advance(self, position: int) -> None:
        """Close the open segment at `position`; the next one begins there."""
        assert self.start <= position <= self.end, f"cut at {position} outside {self.start}..{self.end}"
        levels = min(-(-(position - self.start) // LEVEL_SAMPLES), len(self._levels))
        is_between = (position - self.start) % LEVEL_SAMPLES > 0  # then those behind it are measured anew from there on
        dropped = len(self._levels) if is_between else levels
        self._pcm.drop(position - self.start)
        del self._levels[:dropped], self._loud[:dropped], self._gains_db[:dropped], self._sums[:dropped]
        self._loud_until = max(0, self._loud_until - dropped)
        self.start = position
        self._open()
        if is_between:
            self.measure()

    def keep_open(self) -> None:
        """The model heard words where nothing was loud: treat the open segment as sound from its start on."""
        self._open()
        self._sound_at = 0

    def measure(self) -> list[bool]:
        """Measure the new levels, block by block; returns whether each of them is sound."""
        measured = len(self._levels)
        count = (len(self._pcm) // LEVEL_SAMPLES - measured) // BLOCK_LEVELS * BLOCK_LEVELS
        if count <= 0:
            return []
        pcm = self._pcm.read(measured * LEVEL_SAMPLES, (measured + count) * LEVEL_SAMPLES)
        for level, total in zip(*levels_and_sums_of(pcm), strict=True):
            self._levels.append(level)
            self._sums.append(self._sums[-1] + total)
            self._loud.append(self._loudness.is_sound(level))
            self._gains_db.append(self._loudness.gain_db)
            if self._loud[-1]:
                self._loud_until = len(self._loud)
        return self._loud[measured:]

    def _scan(self, index: int) -> Cut | None:
        """Look at one more level of the open segment."""
        self._quiet_run = 0 if self._loud[index] else self._quiet_run + 1
        self._kept_levels += self._quiet_run <= KEPT_PAUSE_LEVELS
        if self._window_at is None and self._kept_levels >= self._max_levels - self._window_levels:
            self._window_at = index
        if self._sound_at is None:
            return self._scan_quiet(index)
        pause_at = index + 1 - self._quiet_run
        if self._quiet_run and self._quiet_run >= PAUSE_LEVELS[min(self._kept_levels, len(PAUSE_LEVELS) - 1)]:
            return self._pause_cut(pause_at, index)
        if self._kept_levels >= self._max_levels:
            assert self._window_at is not None, "the window begins before the segment's end"
            last = self._last_of_length(index)
            return Cut(self._position_of(last), CutKind.LENGTH, earliest=self._position_of(self._window_at))
        return None

    def _pause_cut(self, pause_at: int, index: int) -> Cut:
        """Cut within a pause. pause_at: the level it begins with; index: the newest level."""
        return self._cut_at(pause_at + self._quiet_run // 2, CutKind.PAUSE)

    def _last_of_length(self, index: int) -> int:
        """The level after the last one that a segment has which ends by its length. index: the newest level."""
        return index + 1

    def _scan_quiet(self, index: int) -> Cut | None:
        lead = int(LEAD_SECONDS * LEVELS_PER_SECOND)
        if all(self._loud[max(0, index + 1 - ONSET_LEVELS) : index + 1]) and index + 1 >= ONSET_LEVELS:
            onset = index + 1 - ONSET_LEVELS
            if onset > LONG_LEAD_SECONDS * LEVELS_PER_SECOND:
                return self._cut_at(onset - lead, CutKind.QUIET)
            self._sound_at = onset
        elif index + 1 >= QUIET_SECONDS * LEVELS_PER_SECOND:
            return self._cut_at(index + 1 - lead, CutKind.QUIET)
        return None

    def _cut_at(self, level: int, kind: CutKind) -> Cut:
        return Cut(self._position_of(level), kind)

    def place(self, cut: Cut, between_words: Sequence[int]) -> int:
        """Choose where in its window to cut by length: where it is quietest near one of these positions, if there are any.

        A position is near within NEAR_LEVELS, for the model's idea of where a word ends may be off by some frames.
        """
        assert cut.earliest is not None, "only a cut by length is placed"
        first, last = (cut.earliest - self.start) // LEVEL_SAMPLES, (cut.position - self.start) // LEVEL_SAMPLES
        power = np.convolve(10 ** (np.array(self._levels[first:last]) / 10), np.ones(BLOCK_LEVELS), mode="valid")
        middles = first + BLOCK_LEVELS // 2 + np.arange(len(power))
        distances = np.abs(middles[:, None] - (np.array(between_words)[None, :] - self.start) / LEVEL_SAMPLES)
        near = distances.min(axis=1, initial=np.inf) <= NEAR_LEVELS
        if near.any():
            power[~near] = np.inf
        # The last of equals: the longer segment gives the model more to go by.
        return self._position_of(int(middles[len(power) - 1 - int(np.argmin(power[::-1]))]))


def quiet_ranges(loud: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """First level and the one behind the last of each stretch without sound between, before or after sound."""
    end = 0
    for is_loud, run in itertools.groupby(loud):
        begin, end = end, end + len(list(run))
        if not is_loud:
            yield begin, end
