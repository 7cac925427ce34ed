"""Reads audio files for the protocol: PyAV converts any format and rate that it reads to 16 kHz mono PCM16.

A WAV file that already has this format is read without PyAV.
"""

import os
import wave
from pathlib import Path
from typing import IO

import numpy as np

from moonshine_client.resend_buffer import SAMPLE_RATE


class AudioFileError(Exception):
    """The file cannot be read as audio."""


def load(path: str | Path | IO[bytes], is_split: bool = False) -> np.ndarray:
    """Read a file. Returns int16 (samples,), or (samples, channels) if the channels are to be split. Raises AudioFileError."""
    samples = read_wave(path) if isinstance(path, str | Path) else None
    if samples is not None:
        return samples[:, None] if is_split else samples
    return decode(path, is_split)


def read_wave(path: str | Path) -> np.ndarray | None:
    """Return int16 (samples,); None if it is not a WAV file of 16 kHz mono PCM16."""
    try:
        with wave.open(str(path), "rb") as file:
            is_heard_so = (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
            return np.frombuffer(file.readframes(file.getnframes()), np.int16).copy() if is_heard_so else None
    except (OSError, EOFError, ValueError, wave.Error):  # cut off, or not a WAV file: PyAV knows more, and reports the error
        return None


def decode(path: str | Path | IO[bytes], is_split: bool = False) -> np.ndarray:
    """Read a file with PyAV; see load()."""
    import av

    try:
        with av.open(str(path) if isinstance(path, str | Path) else path, "r") as container:
            if not container.streams.audio:
                raise AudioFileError(f"{path}: no audio in it")
            layout = container.streams.audio[0].layout if is_split else "mono"
            resampler = av.AudioResampler(format="s16", layout=layout, rate=SAMPLE_RATE)
            chunks = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
            chunks += [out.to_ndarray()[0] for out in resampler.resample(None)]
            channels = container.streams.audio[0].channels
    except (OSError, av.FFmpegError) as exc:
        raise AudioFileError(unreadable(path, exc)) from exc
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return samples.reshape(-1, channels) if is_split else samples


def seconds(path: Path) -> float | None:
    """Return the duration in seconds; None if the file does not contain it. Raises AudioFileError."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioFileError(f"{path}: no audio in it")
            return container.duration / av.time_base if container.duration else None
    except (OSError, av.FFmpegError) as exc:
        raise AudioFileError(unreadable(path, exc)) from exc


def printable(path: str | Path) -> str:
    """Return a file's name to print: names may hold bytes that are not text."""
    return os.fsencode(path).decode("utf-8", "replace")


def unreadable(path: str | Path | IO[bytes], error: Exception) -> str:
    """Return the reason why a file cannot be read, without error numbers of the system or of FFmpeg."""
    named = printable(path) if isinstance(path, str | Path) else "standard input"
    match error:
        case FileNotFoundError():
            return f"{named}: no such file"
        case IsADirectoryError():
            return f"{named}: a directory, not a file"
        case PermissionError():
            return f"{named}: you may not read it"
    return f"{named}: not an audio file"
