"""Audio files into what the protocol carries: any format and rate PyAV reads becomes 16 kHz mono PCM16."""

from pathlib import Path
from typing import IO

import av
import numpy as np

from moonshine_client.held_audio import SAMPLE_RATE


class AudioFileError(Exception):
    """The file cannot be read as audio."""


def load(path: str | Path | IO[bytes]) -> np.ndarray:
    """int16 (samples,). Raises AudioFileError."""
    try:
        with av.open(str(path) if isinstance(path, str | Path) else path, "r") as container:
            if not container.streams.audio:
                raise AudioFileError(f"{path} holds no audio")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            chunks = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
            chunks += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except (OSError, av.FFmpegError) as exc:
        raise AudioFileError(f"{path} cannot be read: {exc}") from exc
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int16)


def seconds(path: Path) -> float | None:
    """How long it is; None where the file does not say. Raises AudioFileError."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioFileError(f"{path} holds no audio")
            return container.duration / av.time_base if container.duration else None
    except (OSError, av.FFmpegError) as exc:
        raise AudioFileError(f"{path} cannot be read: {exc}") from exc
