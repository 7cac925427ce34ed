"""The open segment for a model that encodes streams: its clips only grow, so that each one costs only its new audio.

A clip has the sound of a segment and some quiet around it. Quiet that lasts longer is left out until sound comes back.
A later clip never drops or changes the audio of an earlier one: its ranges and their gains depend only on past audio. During
quiet, an update takes half of the quiet, because a cut is made in its middle. Only a cut by length goes back, to the last gap
between two words.
"""

from runtime.audio import SAMPLE_RATE, Clip
from server.stream.loudness import LEVEL_SAMPLES
from server.stream.segmenter import BLOCK_LEVELS, KEPT_PAUSE_SECONDS, Cut, CutKind, Segmenter

TAIL_SAMPLES = SAMPLE_RATE * 400 // 1000  # quiet transcribed after sound
# Quiet transcribed before sound. Together with the tail it is the part of a pause that counts for the segment's length.
LEAD_SAMPLES = int(KEPT_PAUSE_SECONDS * SAMPLE_RATE) - TAIL_SAMPLES


class StreamingSegmenter(Segmenter):
    """See Segmenter."""

    def _open(self) -> None:
        super()._open()
        self._ranges: list[tuple[int, int]] = []  # transcribed ranges; the last one may lie past the end of the audio
        self._range_gains_db: list[float] = []
        self._followed = 0  # number of levels that these ranges take into account
        self._least_end = self.start  # no clip ends before this position
        self._first_block = len(self._levels) % BLOCK_LEVELS  # levels before the first whole block

    def keep_open(self) -> None:
        super().keep_open()
        self._followed = len(self._levels)
        self._least_end = self._position_of(self._followed)
        self._add(self.start, self._least_end)

    @property
    def end_of_update(self) -> int:
        if self._loud and self._loud[-1]:
            return self.end
        quiet = self.measured_until - self.loud_until
        # An update made before this quiet was measured may have taken its first block. Every pause that is cut is twice as long.
        taken = max(quiet // 2, min(quiet, BLOCK_LEVELS * LEVEL_SAMPLES))
        return max(self._least_end, self.loud_until + min(TAIL_SAMPLES, taken))

    def clip_so_far(self, end: int) -> Clip:
        """Return the open segment's audio up to position `end`, at most end_of_update. The clip never gets shorter."""
        self._follow(end)
        return self._growing_clip(end)

    def closing_clip(self, cut: Cut) -> Clip | None:
        self._follow(cut.position)
        measured = min(self.measured_until, cut.position)
        if cut.kind is CutKind.END and not self.is_quiet_from(measured, cut.position):  # sound that is not measured yet
            self._cover(max(self.start, measured - LEAD_SAMPLES), cut.position)
        is_quiet = not any(first < cut.position for first, _ in self._ranges)
        return self.clip(cut.position) if is_quiet or cut.kind is CutKind.QUIET else self._growing_clip(cut.position)

    def _growing_clip(self, end: int) -> Clip:
        pcm = self._pcm.read(0, end - self.start)
        ranges = [(first, min(last, end)) for first, last in self._ranges if first < end]
        gains = [float(10 ** (gain_db / 20)) for gain_db in self._range_gains_db[: len(ranges)]]
        return Clip(pcm, self.start, tuple(ranges), gains=tuple(gains))

    def _follow(self, until: int) -> None:
        """Extend the ranges by the new levels, block by block, up to the block that contains the position."""
        while self._followed < len(self._levels) and self._position_of(self._followed) < until:
            end = self._block_end(self._followed)
            for level in range(self._followed, end):
                if self._loud[level]:
                    begin = max(self.start, self._position_of(level) - LEAD_SAMPLES)
                    self._cover(begin, self._position_of(level + 1) + TAIL_SAMPLES, self._gains_db[end - 1])
            self._change_gain(self._position_of(end), self._gains_db[end - 1])
            self._followed = end

    def _block_end(self, level: int) -> int:
        """Return the first level after this level's block."""
        if level < self._first_block:
            return self._first_block
        return self._first_block + ((level - self._first_block) // BLOCK_LEVELS + 1) * BLOCK_LEVELS

    def _cover(self, begin: int, end: int, gain_db: float | None = None) -> None:
        """Add the audio between two positions to the ranges. gain_db: gain of a range that begins here; None: the latest gain."""
        if self._ranges and begin <= self._ranges[-1][1]:
            first, last = self._ranges[-1]
            self._ranges[-1] = (first, max(last, end))
        else:
            self._add(begin, end, gain_db)

    def _add(self, begin: int, end: int, gain_db: float | None = None) -> None:
        latest_db = self._gains_db[-1] if self._gains_db else 0.0
        self._ranges.append((begin, end))
        self._range_gains_db.append(latest_db if gain_db is None else gain_db)

    def _change_gain(self, position: int, gain_db: float) -> None:
        """Change the gain from a position on. Nothing after the position has been transcribed yet."""
        if self._ranges and self._ranges[-1][1] > position and self._range_gains_db[-1] != gain_db:
            first, last = self._ranges[-1]
            self._ranges[-1] = (first, position)
            self._add(position, last, gain_db)

    def _pause_cut(self, pause_at: int, index: int) -> Cut:
        cut = super()._pause_cut(pause_at, index)
        return Cut(max(cut.position, self._least_end), CutKind.PAUSE)

    def _last_of_length(self, index: int) -> int:
        return self._block_end(index)
