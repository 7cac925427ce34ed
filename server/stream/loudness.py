"""Sound and silence in the audio, and the loudness of its speaker. They depend only on the levels so far."""

import collections
import math

import numpy as np

from runtime.audio import SAMPLE_RATE

LEVEL_SAMPLES = 320  # one level each 20 ms
LEVELS_PER_SECOND = SAMPLE_RATE // LEVEL_SAMPLES

ONES = np.ones(LEVEL_SAMPLES)

QUIETEST_DB = -90.0  # relative to full scale; anything below is the converter's own noise
ROOM_DB = -65.0  # a background below this does not count beside speech of the usual level; also the first guess
BELOW_SPEECH_DB = 45.0  # beside quieter speech, the background counts down to this far below the speech
QUIET_MARGIN_DB = 7.0  # a level up to this much above the background is still quiet
FALL = 0.3  # the background falls by this share of the distance to each lower level
RISE_DB = 3.0 / LEVELS_PER_SECOND  # the background rises by at most 3 dB a second
STEADY_DB = 1.2  # below this standard deviation sound is steady (noise, hum), and becomes the background at once
STEADY_LEVELS = int(0.4 * LEVELS_PER_SECOND)  # least time of steady sound that is far below the speaker's level
STEADY_SPEECH_LEVELS = 2 * LEVELS_PER_SECOND  # least time if it is near: one clip in 15 has 0.4 s of speech as steady
NEAR_SPEECH_DB = 15.0

ATTACK = 0.5  # the speaker's level rises by this share of the distance to each louder level
DECAY_DB = 2.0 / LEVELS_PER_SECOND  # the speaker's level falls by 2 dB in each second of sound
HEARD_DB = -18.0  # the loudest syllables are raised to this: the dither then lies 42 dB below them
MOST_GAIN_DB = 42.0
GAIN_STEP_DB = 6.0  # the gain changes only if it is this far off: a smaller change would only change the dither


class Loudness:
    """Takes every level of a stream, in order."""

    def __init__(self) -> None:
        self._background_db = ROOM_DB
        self._speech_db: float | None = None  # level of the loudest syllables; None before there was sound
        self._recent = RecentLevels()
        self.gain_db = 0.0
        """Decibels by which the speaker is to be raised."""

    @property
    def quiet_db(self) -> float:
        """The highest level that does not count as sound."""
        return max(self._background_db, self._floor_db) + QUIET_MARGIN_DB

    @property
    def _floor_db(self) -> float:
        """Lowest background level, so that faint noises beside a speaker do not count as sound."""
        return QUIETEST_DB if self._speech_db is None else min(ROOM_DB, self._speech_db - BELOW_SPEECH_DB)

    def is_sound(self, level: float) -> bool:
        """Take one more level, in dB of full scale. Returns True if it is sound."""
        is_loud = level > self.quiet_db
        self._follow_background(level)
        if is_loud:
            self._follow_speech(level)
        return is_loud

    def _follow_background(self, level: float) -> None:
        recent, background_db = self._recent, self._background_db
        recent.append(level)
        if level < background_db:
            self._background_db += FALL * (level - background_db)
        elif recent.are_steady(is_long=self._speech_db is not None and recent.mean > self._speech_db - NEAR_SPEECH_DB):
            self._background_db = recent.mean
        else:
            self._background_db = min(level, background_db + RISE_DB)

    def _follow_speech(self, level: float) -> None:
        if self._speech_db is None:
            self._speech_db = level
        elif level > self._speech_db:
            self._speech_db += ATTACK * (level - self._speech_db)
        else:
            self._speech_db -= DECAY_DB
        wanted = min(MOST_GAIN_DB, max(0.0, HEARD_DB - self._speech_db))
        if abs(wanted - self.gain_db) >= GAIN_STEP_DB:
            self.gain_db = wanted


class RecentLevels:
    """Mean and variance of the newest levels, over a short and a long window. Running sums make it fast: it takes all levels."""

    def __init__(self) -> None:
        self._levels: collections.deque[float] = collections.deque([0.0] * STEADY_SPEECH_LEVELS)
        self._count = 0
        self._sum = self._squares = 0.0  # sums of the short window
        self._long_sum = self._long_squares = 0.0

    def append(self, level: float) -> None:
        levels, square = self._levels, level * level
        old, oldest = levels[-STEADY_LEVELS], levels.popleft()
        levels.append(level)
        self._count += 1
        self._sum += level - old
        self._squares += square - old * old
        self._long_sum += level - oldest
        self._long_squares += square - oldest * oldest

    @property
    def mean(self) -> float:
        return self._sum / STEADY_LEVELS

    def are_steady(self, is_long: bool) -> bool:
        if is_long:
            return is_steady(STEADY_SPEECH_LEVELS, self._count, self._long_sum, self._long_squares)
        return is_steady(STEADY_LEVELS, self._count, self._sum, self._squares)


def is_steady(length: int, count: int, total: float, squares: float) -> bool:
    mean = total / length
    return count >= length and squares / length - mean * mean < STEADY_DB**2


def levels_of(pcm: np.ndarray) -> list[float]:
    """Return the level of each LEVEL_SAMPLES int16 samples, in dB of full scale; at least QUIETEST_DB.

    It is measured around their mean, because a DC offset is no sound.
    """
    return levels_and_sums_of(pcm)[0]


def levels_and_sums_of(pcm: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the levels, and for each level the sum of its samples, which is a whole number."""
    samples = pcm.reshape(-1, LEVEL_SAMPLES).astype(np.float64)  # exact sums, so that a large offset hides no faint sound
    sums, squares = (samples @ ONES).tolist(), ((samples * samples) @ ONES).tolist()
    # There are only a few levels: numpy takes longer for them than Python.
    return [level_of(total, square) for total, square in zip(sums, squares, strict=True)], sums


def level_of(total: float, squares: float) -> float:
    """Return the level of LEVEL_SAMPLES samples, from their sum and the sum of their squares."""
    power = (squares - total * total / LEVEL_SAMPLES) / (LEVEL_SAMPLES * 32_768**2)
    return max(10 * math.log10(power + 1e-12), QUIETEST_DB)
