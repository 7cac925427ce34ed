"""Recordings in harder conditions: telephones, rooms, noise, bad levels, fast and slow speakers."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.file_sets import noise
from benchmarks.speech_sets import Change
from runtime.audio import SAMPLE_RATE

TELEPHONE_RATE = 8_000
MU = 255.0  # ITU-T G.711
NOISE_EXPONENT = 1.0  # 1/f: a room with a fan in it
SNRS_DB = (20, 10, 5, 0)
LEVELS_DB = (-60, -40, -20)
FAST, SLOW = 1.25, 0.8


def telephone(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Convert to 8 kHz and mu-law (G.711's curve), and back."""
    narrow = np.clip(resampled(samples, len(samples) * TELEPHONE_RATE // SAMPLE_RATE), -1, 1)
    code = np.rint(np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU) * 127) / 127
    heard = np.sign(code) * np.expm1(np.abs(code) * np.log1p(MU)) / MU
    return resampled(heard, len(samples))


def in_a_room(rooms: Sequence[np.ndarray], samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Add the echo of a random room, at the original level."""
    room = rooms[int(chance.integers(len(rooms)))]
    length = len(samples) + len(room)
    heard = np.fft.irfft(np.fft.rfft(samples, length) * np.fft.rfft(room, length), length)[: len(samples) + SAMPLE_RATE // 2]
    return heard * rms(samples) / max(1e-9, rms(heard[: len(samples)]))


def noisy(snr_db: float, samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return samples + noise(len(samples), rms(samples) * 10 ** (-snr_db / 20), NOISE_EXPONENT, seed=int(chance.integers(2**31)))


def scaled(gain_db: float, samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return np.clip(samples * 10 ** (gain_db / 20), -1, 1)


def at_level(level_db: float, samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Scale to an RMS of level_db, in dB of full scale."""
    return np.clip(samples * 10 ** (level_db / 20) / max(1e-9, rms(samples)), -1, 1)


def clipped(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Clip one sample in twenty, at half of full scale."""
    return np.clip(samples / max(1e-9, float(np.quantile(np.abs(samples), 0.95))), -1, 1) / 2


def at_speed(speed: float, samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Change the speed, and with it the pitch."""
    return resampled(samples, round(len(samples) / speed))


def resampled(samples: np.ndarray, length: int) -> np.ndarray:
    """Resample to `length` samples, by the spectrum."""
    return np.fft.irfft(np.fft.rfft(samples), length) * (length / len(samples))


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def conditions(rooms: Sequence[np.ndarray]) -> dict[str, Change]:
    """Return the conditions by name; a room only if impulse responses are given."""
    by_name: dict[str, Callable[..., np.ndarray]] = {
        "telephone": telephone,
        **({"in a room": functools.partial(in_a_room, rooms)} if rooms else {}),
        **{f"noise {snr_db} dB": functools.partial(noisy, snr_db) for snr_db in SNRS_DB},
        "clipped": clipped,
        "30 dB down": functools.partial(scaled, -30.0),
        **{f"at {level_db} dB": functools.partial(at_level, level_db) for level_db in LEVELS_DB},
        "fast": functools.partial(at_speed, FAST),
        "slow": functools.partial(at_speed, SLOW),
    }
    return by_name
