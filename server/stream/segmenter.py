"""The open segment of one stream's audio, and the places to cut it. It depends only on the samples: no clock, no model.

Every sample belongs to exactly one segment. The model receives the audio between two cuts together. Cuts are made:
- at a pause after speech. The longer the segment already is, the shorter the pause may be: words on both sides help each other,
  so a short segment ends only at a pause that ends the utterance;
- shortly before sound begins, after some quiet: quiet before speech makes Moonshine's transcripts empty;
- in unbroken sound, at the quietest point between two words in the window before the segment exceeds its maximum. The model
  determines where the words are;
- in unbroken quiet, every few seconds.
Within a segment, the middle of a long pause is left out, so that the model receives a short one. That does not harm the text,
saves time, and keeps the two halves of a sentence together while the speaker thinks.
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

LEAD_SECONDS = 0.4  # quiet kept before sound
LONG_LEAD_SECONDS = 0.8  # more quiet than this before sound is cut off, down to LEAD_SECONDS
QUIET_SECONDS = 3.0  # length of a segment without sound
PAUSES = ((0.0, 2.5), (6.0, 2.5), (8.0, 0.5), (12.0, 0.2))  # seconds kept so far, and seconds of pause that end the segment
PAUSE_LEVELS: list[float] = (
    LEVELS_PER_SECOND
    * np.interp(
        np.arange(PAUSES[-1][0] * LEVELS_PER_SECOND + 1) / LEVELS_PER_SECOND,
        [seconds for seconds, _ in PAUSES],
        [pause for _, pause in PAUSES],
    )
).tolist()
"""Pause that ends the segment, in levels, by the number of levels kept so far; the last one also for more."""
KEPT_PAUSE_SECONDS = 0.6  # part of a longer pause that is transcribed: half at each end
KEPT_PAUSE_LEVELS = int(KEPT_PAUSE_SECONDS * LEVELS_PER_SECOND)
NEAR_LEVELS = 6  # 120 ms
BETWEEN_WORDS_LEVELS = 4  # 80 ms: the closure before a p or t is shorter


class CutKind(enum.Enum):
    PAUSE = "pause"
    QUIET = "quiet"
    LENGTH = "length"
    END = "end"  # end of the stream


@dataclass(frozen=True)
class Cut:
    """A position where the open segment should end."""

    position: int
    """Sample index within the stream, after the last sample of the segment; for a cut by length, the latest possible one."""
    kind: CutKind
    earliest: int | None = None
    """Start of the search window in samples, for a cut by length; place() decides within it."""


class Segmenter:
    """Holds the audio from the open segment's start to the newest sample."""

    def __init__(self, max_seconds: float = 12.0, window_seconds: float = 3.0):
        """max_seconds: longest segment. window_seconds: window before that in which a cut by length is searched for."""
        self._max_levels = int(max_seconds * LEVELS_PER_SECOND)
        self._window_levels = int(window_seconds * LEVELS_PER_SECOND)
        self._pcm = AudioBuffer()  # from self.start on
        self._levels: list[float] = []  # dB of full scale, from self.start on; may end some 100 ms before the audio
        self._sums = [0.0]  # sum of all samples before each level, and before the first one that has no level
        self._loud: list[bool] = []  # whether each of these levels was above the background at its time
        self._gains_db: list[float] = []  # gain for the speaker, as of each of these levels
        self._loud_until = 0  # the level after the last loud one
        self._loudness = Loudness()
        self.start = 0
        """Position of the open segment's first sample in the stream."""
        self._open()

    def _open(self) -> None:
        self._scanned = 0  # levels of the open segment that the search for a cut has seen
        self._sound_at: int | None = None  # level at which sound began
        self._quiet_run = 0  # levels of quiet at the end of the scanned levels
        self._kept_levels = 0  # of the levels scanned, those that clip() does not leave out
        self._window_at: int | None = None  # level at which the window for a cut by length begins
        self._cut: Cut | None = None

    @property
    def end(self) -> int:
        """Position after the newest sample."""
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
        """Position after the last sound in the open segment; its start if there is none."""
        return self._position_of(self._loud_until)

    def is_quiet_from(self, position: int, end: int | None = None) -> bool:
        """True if nothing is loud from `position` to `end`; by default to the last sample, also if it has no level yet."""
        first, last = (max(each, self.start) - self.start for each in (position, self.end if end is None else end))
        if first >= last:
            return True
        samples = self._pcm.read(first, last)
        whole = np.resize(samples, -(-len(samples) // LEVEL_SAMPLES) * LEVEL_SAMPLES)  # padded with its own beginning
        return max(levels_of(whole)) <= self._loudness.quiet_db

    def newest(self, samples: int) -> np.ndarray:
        """Return the newest samples of the open segment, int16, at most `samples` of them."""
        return self._pcm.read(max(0, len(self._pcm) - samples), len(self._pcm))

    def append(self, pcm: bytes) -> list[bool]:
        """Hold audio and measure it. Returns for each new level whether it is sound."""
        self.hold(pcm)
        return self.measure()

    def hold(self, pcm: bytes) -> None:
        """Hold audio, which has no levels until measure(). pcm: PCM16 mono little-endian, whole samples."""
        self._pcm.append(pcm)

    @property
    def has_block(self) -> bool:
        """True if there is enough audio for levels that measure() has not measured."""
        return len(self._pcm) >= (len(self._levels) + BLOCK_LEVELS) * LEVEL_SAMPLES

    def find_cut(self) -> Cut | None:
        """Return the open segment's first cut in the audio so far; the same until advance(). A cut by length needs place()."""
        while self._cut is None and self._scanned < len(self._levels):
            self._cut = self._scan(self._scanned)
            self._scanned += 1
        return self._cut

    def clip(self, end: int) -> Clip:
        """Return the open segment's audio up to position `end`, at a common loudness, without the middle of long pauses."""
        return self._clip(end, self.kept(end))

    def clip_so_far(self, end: int) -> Clip:
        """Return the same clip, with silence after it if less than TAIL_SAMPLES of quiet follow the last sound."""
        return self._clip(end, self.kept(end), 0, max(0, self.sound(end)[1] + TAIL_SAMPLES - end))

    def closing_clip(self, cut: Cut) -> Clip | None:
        """Return the clip of a first attempt at a segment; None if edges are to be chosen for it.

        A cut by length goes through speech, and a quiet segment has no edges.
        """
        return self.clip(cut.position) if cut.kind in (CutKind.LENGTH, CutKind.QUIET) else None

    def clip_between(self, end: int, lead: Lead) -> Clip:
        """Return the clip with `lead` samples of quiet before the first sound, and TAIL_SAMPLES after the last."""
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
        """Return the sum of the samples between two positions: of the levels in between, and of the samples beside them."""
        begin, end = begin - self.start, end - self.start
        first, last = -(-begin // LEVEL_SAMPLES), min(end // LEVEL_SAMPLES, len(self._levels))
        if first >= last:
            return self._sum_of_samples(begin, end)
        beside = self._sum_of_samples(begin, first * LEVEL_SAMPLES) + self._sum_of_samples(last * LEVEL_SAMPLES, end)
        return int(self._sums[last] - self._sums[first]) + beside

    def _sum_of_samples(self, first: int, last: int) -> int:
        return int(self._pcm.read(first, last).sum(dtype=np.int64)) if first < last else 0

    def _gain(self, end: int) -> float:
        """Return the gain as of the last level before position `end`, so that a second attempt has the gain of the first."""
        levels = self._gains_db[: (end - self.start) // LEVEL_SAMPLES]
        return float(10 ** (levels[-1] / 20)) if levels else 1.0

    def sound(self, end: int) -> tuple[int, int]:
        """Return the start of the first sound in the open segment before position `end`, and the end of the last one.

        The whole range counts if there is no sound.
        """
        loud = self._loud[: -(-(end - self.start) // LEVEL_SAMPLES)]
        if True not in loud:
            return self.start, end
        first, last = self._position_of(loud.index(True)), self._position_of(len(loud) - loud[::-1].index(True))
        measured = self._position_of(len(loud))
        return first, end if measured < end and not self.is_quiet_from(measured) else min(end, last)

    def kept(self, end: int) -> list[tuple[int, int]]:
        """Return the ranges of clip(end): the positions of the first sample of each and of the one after its last."""
        ranges, begin = [], self.start
        for first, last in quiet_ranges(self._loud[: (end - self.start) // LEVEL_SAMPLES]):
            if last - first > KEPT_PAUSE_LEVELS:
                ranges.append((begin, self._position_of(first + KEPT_PAUSE_LEVELS // 2)))
                begin = self._position_of(last - KEPT_PAUSE_LEVELS // 2)
        return [*ranges, (begin, end)]

    def pauses(self, end: int) -> list[tuple[int, int]]:
        """Return the quiet ranges before position `end` that are long enough to lie between words, in the form of kept()."""
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
        is_between = (position - self.start) % LEVEL_SAMPLES > 0  # then the levels after it are measured again from there on
        dropped = len(self._levels) if is_between else levels
        self._pcm.drop(position - self.start)
        del self._levels[:dropped], self._loud[:dropped], self._gains_db[:dropped], self._sums[:dropped]
        self._loud_until = max(0, self._loud_until - dropped)
        self.start = position
        self._open()
        if is_between:
            self.measure()

    def keep_open(self) -> None:
        """Treat the open segment as sound from its start on: the model found words where nothing was loud."""
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
        """Check one more level of the open segment for a cut."""
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
        """Return the level after the last one of a segment that is cut by length. index: the newest level."""
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
        """Choose the position of a cut by length in its window: the quietest one near `between_words`, if there are any.

        Near means within NEAR_LEVELS, because the ends of words from the model may be wrong by some frames.
        """
        assert cut.earliest is not None, "only a cut by length is placed"
        first, last = (cut.earliest - self.start) // LEVEL_SAMPLES, (cut.position - self.start) // LEVEL_SAMPLES
        power = np.convolve(10 ** (np.array(self._levels[first:last]) / 10), np.ones(BLOCK_LEVELS), mode="valid")
        middles = first + BLOCK_LEVELS // 2 + np.arange(len(power))
        distances = np.abs(middles[:, None] - (np.array(between_words)[None, :] - self.start) / LEVEL_SAMPLES)
        near = distances.min(axis=1, initial=np.inf) <= NEAR_LEVELS
        if near.any():
            power[~near] = np.inf
        # Of equal places the last is taken: a longer segment gives the model more context.
        return self._position_of(int(middles[len(power) - 1 - int(np.argmin(power[::-1]))]))


def quiet_ranges(loud: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield the first level of each range without sound, and the level after its last."""
    end = 0
    for is_loud, run in itertools.groupby(loud):
        begin, end = end, end + len(list(run))
        if not is_loud:
            yield begin, end
