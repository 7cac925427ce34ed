"""Makes the clips of this directory: python make.py, with flite (Debian: apt-get install flite) on the path.

Each word is synthesised alone, cut down to its sound and laid at a time of our choosing, over faint noise.
"""

import json
import subprocess
import tempfile
import wave
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 16_000
NOISE_RMS = 0.0005
QUIET = 0.01  # of a word's peak: what is below at its ends is not the word's
CLIPS = (
    ("slt", "please send the new report to our office before friday morning", (0.05, 0.15)),
    ("rms", "the old captain walked along the river with seven little dogs", (0.05, 0.15)),
    ("awb", "my brother bought a large yellow house near the village school", (0.1, 0.3)),
    ("slt", "nobody remembers what happened after the long winter ended", (0.3, 1.2)),
    ("rms", "every doctor knows that fresh water is good for children", (0.3, 1.2)),
)


def speak(voice: str, word: str) -> np.ndarray:
    """int16 (samples,), from the word's first sound to its last."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", word, "-o", file.name], check=True)
        with wave.open(file.name) as spoken:
            assert spoken.getframerate() == SAMPLE_RATE
            samples = np.frombuffer(spoken.readframes(spoken.getnframes()), np.int16)
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def join(voice: str, text: str, gaps: tuple[float, float], generator: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    """The clip, and when each of its words begins and ends."""
    pieces, words, position = [], [], 0

    def leave(seconds: float) -> None:
        nonlocal position
        pieces.append(np.zeros(int(seconds * SAMPLE_RATE), np.int16))
        position += len(pieces[-1])

    leave(0.3)
    for word in text.split():
        pieces.append(speak(voice, word))
        end = position + len(pieces[-1])
        words.append({"w": word, "start_ms": position * 1000 // SAMPLE_RATE, "end_ms": end * 1000 // SAMPLE_RATE})
        position = end
        leave(generator.uniform(*gaps))
    leave(0.3)
    audio = np.concatenate(pieces) + generator.standard_normal(position) * NOISE_RMS * 32_768
    return np.clip(audio, -32_768, 32_767).astype(np.int16), words


def save(path: Path, audio: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])


if __name__ == "__main__":
    here, random, manifest = Path(__file__).parent, np.random.default_rng(0), []
    for index, (voice, text, gaps) in enumerate(CLIPS):
        audio, words = join(voice, text, gaps, random)
        name = f"{index:02}_{voice}.flac"
        save(here / name, audio)
        manifest.append({"file": name, "voice": voice, "words": words})
    (here / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
