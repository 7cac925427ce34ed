"""Audio files into what the protocol carries: any format and rate PyAV reads becomes 16 kHz mono PCM16.

A WAV file that is that already is read without PyAV.
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
    """Return int16 (samples,), or (samples, channels) where the channels are to be split. Raises AudioFileError."""
    samples = read_wave(path) if isinstance(path, str | Path) else None
    if samples is not None:
        return samples[:, None] if is_split else samples
    return decode(path, is_split)


def read_wave(path: str | Path) -> np.ndarray | None:
    """int16 (samples,); None where it is no WAV file of 16 kHz mono PCM16."""
    try:
        with wave.open(str(path), "rb") as file:
            is_heard_so = (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
            return np.frombuffer(file.readframes(file.getnframes()), np.int16).copy() if is_heard_so else None
    except (OSError, EOFError, ValueError, wave.Error):  # cut off, or no WAV at all: PyAV knows more, and says what is wrong
        return None


def decode(path: str | Path | IO[bytes], is_split: bool = False) -> np.ndarray:
    """load(), by PyAV."""
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
    """Duration in seconds; None if the file does not say. Raises AudioFileError."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioFileError(f"{path}: no audio in it")
            return container.duration / av.time_base if container.duration else None
    except (OSError, av.FFmpegError) as exc:
        raise AudioFileError(unreadable(path, exc)) from exc


def printable(path: str | Path) -> str:
    """Return a file's name to print: names may hold bytes that are no text."""
    return os.fsencode(path).decode("utf-8", "replace")


def unreadable(path: str | Path | IO[bytes], error: Exception) -> str:
    """Return why a file cannot be read, without numbers of the system or of FFmpeg."""
    named = printable(path) if isinstance(path, str | Path) else "standard input"
    match error:
        case FileNotFoundError():
            return f"{named}: no such file"
        case IsADirectoryError():
            return f"{named}: a directory, not a file"
        case PermissionError():
            return f"{named}: you may not read it"
    return f"{named}: not an audio file"
