"""Folders of real recordings, each a set: manifest.json lists `file`, `text` and, where it matters, `kind` and `speechlike`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_client import audio_file

HALVES = {"even": 0, "odd": 1}
TUNED_ON = ("librispeech_train", "dictation_long")
"""Thresholds were chosen on these, of which there are no halves, and on the even clips of the others. They stand apart."""
VOICES = "*"  # behind the kind of what is no speech, but has voices in it


@dataclass(frozen=True)
class Clip:
    """One recording."""

    set_name: str
    file: str
    samples: np.ndarray
    """int16 (samples,), 16 kHz."""
    text: str
    kind: str = ""
    """Of what is no speech: what it is, with a star where voices are in it."""

    @property
    def name(self) -> str:
        return f"{self.set_name}/{self.file}"


def names_in(directory: Path) -> list[str]:
    """Every set there, those to be reported first."""
    found = sorted(manifest.parent.name for manifest in directory.glob("*/manifest.json"))
    return sorted((name for name in found if name != "rir"), key=lambda name: name in TUNED_ON)


def load(directory: Path, name: str, half: str | None = None, every: int = 1) -> list[Clip]:
    """half: even or odd clips only; every: of those, each so many-th. Raises FileNotFoundError where there is no such set."""
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
    """Impulse responses, float (samples,), the loudest sample 1; none where there is no set of them."""
    manifest = directory / "rir" / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    responses = (audio_file.load(directory / "rir" / entry["file"]).astype(np.float64) for entry in entries)
    return [response / np.abs(response).max() for response in responses]


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""float (samples,) in [-1, 1] and a source of chance into the same, made harder to hear."""


def changed(clips: Sequence[Clip], change: Change, seed: int = 0) -> list[Clip]:
    """The clips, each changed with chance of its own."""
    made = []
    for number, clip in enumerate(clips):
        samples = change(clip.samples / 32_768, np.random.default_rng((seed, number)))
        pcm = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)
        made.append(Clip(clip.set_name, clip.file, pcm, clip.text, clip.kind))
    return made
