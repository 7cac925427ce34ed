"""Folders of real recordings, each a set: manifest.json lists `file`, `text` and, if they matter, `kind` and `speechlike`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_client import audio_file

HALVES = {"even": 0, "odd": 1}
TUNED_ON = ("librispeech_train", "dictation_long")
"""Sets on which thresholds were tuned, and which have no halves; of the other sets, only the even clips were used for that. Their
results are reported separately."""
VOICES = "*"  # after the kind of a recording that is not speech but has voices in it


@dataclass(frozen=True)
class Clip:
    """One recording."""

    set_name: str
    file: str
    samples: np.ndarray
    """int16 (samples,), 16 kHz."""
    text: str
    kind: str = ""
    """Kind of sound if it is not speech, with a star if there are voices in it."""

    @property
    def name(self) -> str:
        return f"{self.set_name}/{self.file}"


def names_in(directory: Path) -> list[str]:
    """Return the names of all sets in a directory, those of TUNED_ON last."""
    found = sorted(manifest.parent.name for manifest in directory.glob("*/manifest.json"))
    return sorted((name for name in found if name != "rir"), key=lambda name: name in TUNED_ON)


def load(directory: Path, name: str, half: str | None = None, every: int = 1) -> list[Clip]:
    """Load a set. half: even or odd clips only; every: each `every`th of those. Raises FileNotFoundError if it is missing."""
    entries = json.loads((directory / name / "manifest.json").read_text())
    if half and name not in TUNED_ON:
        entries = entries[HALVES[half] :: 2]
    return [
        Clip(name, entry["file"], audio_file.load(directory / name / entry["file"]), entry["text"], kind_of(entry))
        for entry in entries[::every]
    ]


def kind_of(entry: dict) -> str:
    return entry.get("kind", "") + (VOICES if entry.get("speechlike") else "")


def rooms_in(directory: Path) -> list[np.ndarray]:
    """Return the impulse responses, float (samples,), with 1 as the loudest sample; none if there is no set of them."""
    manifest = directory / "rir" / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    responses = (audio_file.load(directory / "rir" / entry["file"]).astype(np.float64) for entry in entries)
    return [response / np.abs(response).max() for response in responses]


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Function of float (samples,) in [-1, 1] and a random generator that returns harder audio of the same form."""


def changed(clips: Sequence[Clip], change: Change, seed: int = 0) -> list[Clip]:
    """Return the clips, each changed with its own random generator."""
    made = []
    for number, clip in enumerate(clips):
        samples = change(clip.samples / 32_768, np.random.default_rng((seed, number)))
        pcm = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)
        made.append(Clip(clip.set_name, clip.file, pcm, clip.text, clip.kind))
    return made
