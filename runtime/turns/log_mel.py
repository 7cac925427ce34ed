"""Log-mel features of eight seconds of audio, as Whisper's feature extractor computes them.

The same as transformers.WhisperFeatureExtractor(chunk_length=8) with do_normalize; a test compares them.
"""

import numpy as np

from runtime.audio import SAMPLE_RATE

WINDOW_SECONDS = 8
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE
FFT_SAMPLES, HOP_SAMPLES = 400, 160
MELS, FRAMES = 80, WINDOW_SAMPLES // HOP_SAMPLES
LEAST_POWER = 1e-10
LEAST_VARIANCE = 1e-7
RANGE_DECADES = 8.0  # of power below the loudest; lower power is clipped
LINEAR_HZ, LINEAR_MELS = 1000.0, 15.0  # up to here Slaney's scale is linear,
LOG_STEP = np.log(6.4) / 27.0  # and logarithmic above


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return float32 (MELS, FRAMES), about from -1 to 1, for the newest eight seconds.

    samples: int16 (samples,), 16 kHz. Shorter audio has silence before it.
    """
    window = np.zeros(WINDOW_SAMPLES, np.float32)
    newest = samples[-WINDOW_SAMPLES:]
    window[WINDOW_SAMPLES - len(newest) :] = newest / np.float32(32_768)
    window = (window - window.mean()) / np.sqrt(window.var() + LEAST_VARIANCE)
    mels = np.log10(np.maximum(powers(window) @ MEL_FILTERS, LEAST_POWER)).T
    return ((np.maximum(mels, mels.max() - RANGE_DECADES) + 4.0) / 4.0).astype(np.float32)


def powers(window: np.ndarray) -> np.ndarray:
    """Return the power spectrum of each frame, float (FRAMES, FFT_SAMPLES // 2 + 1). window: float32 (WINDOW_SAMPLES,)."""
    padded = np.pad(window, FFT_SAMPLES // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES][:FRAMES]
    spectrum = np.fft.rfft(frames * HANN)
    return spectrum.real**2 + spectrum.imag**2


def mel_of_hertz(hertz: np.ndarray) -> np.ndarray:
    """Convert frequencies to Slaney's mel scale."""
    above = LINEAR_MELS + np.log(np.maximum(hertz, LINEAR_HZ) / LINEAR_HZ) / LOG_STEP
    return np.where(hertz < LINEAR_HZ, hertz * LINEAR_MELS / LINEAR_HZ, above)


def hertz_of_mel(mels: np.ndarray) -> np.ndarray:
    """Convert from Slaney's mel scale to frequencies."""
    above = LINEAR_HZ * np.exp(LOG_STEP * (np.maximum(mels, LINEAR_MELS) - LINEAR_MELS))
    return np.where(mels < LINEAR_MELS, mels * LINEAR_HZ / LINEAR_MELS, above)


def mel_filters() -> np.ndarray:
    """Return triangular filters of equal area, float64 (FFT_SAMPLES // 2 + 1, MELS)."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)
    edges = hertz_of_mel(np.linspace(0, float(mel_of_hertz(np.array(SAMPLE_RATE / 2))), MELS + 2))
    slopes = edges[None, :] - frequencies[:, None]
    rising, falling = -slopes[:, :-2] / np.diff(edges)[:-1], slopes[:, 2:] / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))


HANN = np.hanning(FFT_SAMPLES + 1)[:-1]
MEL_FILTERS = mel_filters()
