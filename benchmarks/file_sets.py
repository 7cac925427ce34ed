"""Audio for measuring quality: the evaluation clips one by one, the samples, and ten minutes of clips joined with pauses."""

from dataclasses import dataclass

import numpy as np

from benchmarks.harness.accuracy import evaluation_clips, samples
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE

PAUSE_SECONDS = (0.1, 6.0)
SNR_DB = 15.0
FAINT_RMS = 0.001  # of full scale
BACKGROUND_EXPONENT = 1.0  # 1/f: a room with a fan in it, no voices


@dataclass(frozen=True)
class Piece:
    """A piece of audio and its text."""

    samples: np.ndarray
    """int16 (samples,)."""
    text: str


@dataclass(frozen=True)
class Recording:
    """Audio to stream, and each of its utterances alone, for the same model offline."""

    name: str
    samples: np.ndarray
    text: str
    alone: tuple[Piece, ...]


def clips_one_by_one() -> list[Recording]:
    return [alone(each.path.stem, audio_file.load(each.path), each.text) for each in evaluation_clips()]


def sample_recordings() -> list[Recording]:
    return [alone(each.path.stem, audio_file.load(each.path), each.text) for each in samples()]


def alone(name: str, audio: np.ndarray, text: str) -> Recording:
    return Recording(name, audio, text, (Piece(audio, text),))


def joined_over_silence(seconds: float) -> list[Recording]:
    return [join("silence", seconds, lambda audio, speech_rms: np.zeros(len(audio)))]


def joined_over_faint_noise(seconds: float) -> list[Recording]:
    return [join("faint noise", seconds, lambda audio, speech_rms: noise(len(audio), FAINT_RMS, exponent=0.0))]


def joined_over_background(seconds: float) -> list[Recording]:
    return [
        join(
            "background",
            seconds,
            lambda audio, speech_rms: noise(len(audio), speech_rms * 10 ** (-SNR_DB / 20), BACKGROUND_EXPONENT),
        )
    ]


def join(name: str, seconds: float, background) -> Recording:
    """Join clips in a random order with random pauses, as many as there is room for, over one background.

    background: takes the audio (float, full scale 1) and the RMS of its speech, and returns float noise of the same length.
    """
    random, clips = np.random.default_rng(0), clips_one_by_one()
    parts, places, texts, position = [], [], [], 0
    while True:
        for index in random.permutation(len(clips)):
            clip, pause = clips[index], int(random.uniform(*PAUSE_SECONDS) * SAMPLE_RATE)
            if texts and position + pause + len(clip.samples) > seconds * SAMPLE_RATE:
                audio = np.concatenate(parts) / 32_768
                speech_rms = float(np.sqrt(np.mean(np.concatenate([audio[first:last] for first, last in places]) ** 2)))
                mixed = np.clip((audio + background(audio, speech_rms)) * 32_768, -32_768, 32_767).astype(np.int16)
                pieces = tuple(Piece(mixed[first:last], text) for (first, last), text in zip(places, texts, strict=True))
                return Recording(name, mixed, " ".join(texts), pieces)
            parts += [np.zeros(pause, np.int16), clip.samples]
            places.append((position + pause, position + pause + len(clip.samples)))
            texts.append(clip.text)
            position = places[-1][1]


def noise(count: int, rms: float, exponent: float, seed: int = 3) -> np.ndarray:
    """Return 1/f^exponent noise, float64 (count,)."""
    frequencies = np.fft.rfftfreq(count)
    frequencies[0] = frequencies[1]
    random = np.random.default_rng(seed)
    spectrum = random.standard_normal(len(frequencies)) + 1j * random.standard_normal(len(frequencies))
    samples = np.fft.irfft(spectrum * frequencies ** (-exponent / 2), count)
    return samples / samples.std() * rms


FILE_SETS = {
    "clips": lambda seconds: clips_one_by_one(),
    "samples": lambda seconds: sample_recordings(),
    "joined, silence": joined_over_silence,
    "joined, faint noise": joined_over_faint_noise,
    "joined, background 15 dB": joined_over_background,
}
"""File sets by name; each takes the seconds of joined audio."""
