"""The open segment of one stream's audio, and where to cut it. A function of the samples alone: no clock, no model.

Nothing is dropped: every sample belongs to exactly one segment, and every segment is transcribed. Cuts only decide which
samples the model hears together:
- at a pause after speech, the shorter the longer the segment already is: there a cut costs nothing;
- shortly before sound begins, after a while of quiet: quiet before speech is what empties Moonshine's transcripts;
- in unbroken sound, at the quietest point of a window before the segment grows past its maximum;
- in unbroken quiet, every few seconds.
"""

import enum
from dataclasses import dataclass

import numpy as np

from runtime.audio import SAMPLE_RATE, Clip

LEVEL_SAMPLES = 320  # one level each 20 ms
LEVELS_PER_SECOND = SAMPLE_RATE // LEVEL_SAMPLES
BLOCK_LEVELS = 5  # levels are taken in blocks of 100 ms: one numpy call instead of five

QUIETEST_DB = -65.0  # of full scale; whatever is below this counts as the background's lowest level
QUIET_MARGIN_DB = 7.0  # above the background, still quiet
RISE_DB = 3.0 / LEVELS_PER_SECOND  # the background level follows steady noise up by 3 dB a second
FALL = 0.3  # and down by this share of the distance with every level
ONSET_LEVELS = 2  # this many loud levels in a row are the beginning of sound

LEAD_SECONDS = 0.4  # of quiet kept before sound
LONG_LEAD_SECONDS = 0.8  # more quiet than this before sound is cut off, down to LEAD_SECONDS
QUIET_SECONDS = 3.0  # length of a segment without sound
PAUSES = ((0.0, 1.0), (2.0, 0.8), (4.0, 0.5), (8.0, 0.3), (12.0, 0.2))  # seconds of sound so far: seconds of pause that end it


class CutKind(enum.Enum):
    PAUSE = "pause"
    QUIET = "quiet"
    LENGTH = "length"
    END = "end"  # of the stream


@dataclass(frozen=True)
class Cut:
    """Where the open segment should end."""

    position: int
    """Sample index within the stream, after the last sample of the segment."""
    kind: CutKind


class Segmenter:
    """Holds the audio from the open segment's start to the newest sample."""

    def __init__(self, max_seconds: float = 12.0, window_seconds: float = 3.0):
        """max_seconds: longest segment; window_seconds: how much before that a cut is looked for."""
        self._max_levels = int(max_seconds * LEVELS_PER_SECOND)
        self._window_levels = int(window_seconds * LEVELS_PER_SECOND)
        self._pcm = bytearray()  # from self.start on
        self._levels: list[float] = []  # dB of full scale, from self.start on; may end some 100 ms before the audio
        self._loud: list[bool] = []  # the same levels, held against the background at their time
        self._background_db = QUIETEST_DB
        self.start = 0
        """Position of the open segment's first sample in the stream; a multiple of LEVEL_SAMPLES."""
        self._open()

    def _open(self) -> None:
        self._scanned = 0  # levels of the open segment that the search for a cut has seen
        self._sound_at: int | None = None  # level at which sound began
        self._quiet_run = 0  # levels of quiet at the end of what was scanned
        self._cut: Cut | None = None

    @property
    def end(self) -> int:
        """Position behind the newest sample."""
        return self.start + len(self._pcm) // 2

    @property
    def has_sound(self) -> bool:
        """Has anything in the open segment risen above the background?"""
        return self._sound_at is not None

    @property
    def agreement_end(self) -> int:
        """No cut of the open segment comes before this position unless everything behind the cut is quiet.

        So words that were heard in audio up to here lie before the cut, wherever it will be.
        """
        return self.start + (self._max_levels - self._window_levels) * LEVEL_SAMPLES

    def append(self, pcm: bytes) -> None:
        """pcm: PCM16 mono little-endian, whole samples."""
        self._pcm += pcm

    def find_cut(self) -> Cut | None:
        """The open segment's first cut in the audio so far; the same answer until advance()."""
        self._measure_levels()
        while self._cut is None and self._scanned < len(self._levels):
            self._cut = self._scan(self._scanned)
            self._scanned += 1
        return self._cut

    def clip(self, end: int) -> Clip:
        """The open segment's audio up to position `end`."""
        samples = np.frombuffer(bytes(memoryview(self._pcm)[: (end - self.start) * 2]), np.int16)
        return Clip(samples, position=self.start)

    def advance(self, position: int) -> None:
        """Close the open segment at `position`; the next one begins there."""
        assert self.start <= position <= self.end, f"cut at {position} outside {self.start}..{self.end}"
        levels = min(-(-(position - self.start) // LEVEL_SAMPLES), len(self._levels))
        del self._pcm[: (position - self.start) * 2], self._levels[:levels], self._loud[:levels]
        self.start = position
        self._open()

    def keep_open(self) -> None:
        """The model heard words where nothing was loud: treat the open segment as sound from its start on."""
        self._open()
        self._sound_at = 0

    def _measure_levels(self) -> None:
        measured = len(self._levels) * LEVEL_SAMPLES
        blocks = (len(self._pcm) // 2 - measured) // (LEVEL_SAMPLES * BLOCK_LEVELS)
        if blocks <= 0:
            return
        count = blocks * BLOCK_LEVELS
        pcm = np.frombuffer(self._pcm, np.int16, count * LEVEL_SAMPLES, offset=measured * 2)
        samples = pcm.reshape(count, LEVEL_SAMPLES).astype(np.float32) / 32_768
        samples -= samples.mean(axis=1, keepdims=True)  # a DC offset is no sound
        for level in np.maximum(10 * np.log10((samples * samples).mean(axis=1) + 1e-12), QUIETEST_DB).tolist():
            self._levels.append(level)
            self._loud.append(level > self._background_db + QUIET_MARGIN_DB)
            if level < self._background_db:
                self._background_db += FALL * (level - self._background_db)
            else:
                self._background_db = min(level, self._background_db + RISE_DB)

    def _scan(self, index: int) -> Cut | None:
        """Look at one more level of the open segment."""
        self._quiet_run = 0 if self._loud[index] else self._quiet_run + 1
        if self._sound_at is None:
            return self._scan_quiet(index)
        pause_at = index + 1 - self._quiet_run
        if self._quiet_run >= pause_levels(pause_at - self._sound_at):
            return self._cut_at(pause_at + self._quiet_run // 2, CutKind.PAUSE)
        if index + 1 >= self._max_levels:
            return self._cut_at(self._quietest(index + 1), CutKind.LENGTH)
        return None

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
        return Cut(self.start + level * LEVEL_SAMPLES, kind)

    def _quietest(self, end: int) -> int:
        """The middle of the quietest 100 ms in the window that ends at level `end`."""
        window = np.array(self._levels[end - self._window_levels : end])
        smooth = np.convolve(10 ** (window / 10), np.ones(BLOCK_LEVELS), mode="valid")
        # The last of equals: the longer segment gives the model more to go by.
        last_minimum = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
        return end - self._window_levels + last_minimum + BLOCK_LEVELS // 2


def pause_levels(sound_levels: int) -> float:
    """How many quiet levels end a segment that holds this many since its sound began."""
    seconds, pauses = zip(*PAUSES, strict=True)
    return float(np.interp(sound_levels / LEVELS_PER_SECOND, seconds, pauses)) * LEVELS_PER_SECOND
