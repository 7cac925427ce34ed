"""Comparison of one run's figures with an earlier one's: figures that are measured alike have the same name."""

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import speech
from benchmarks.speech import Heard

LABELS = (
    "name",
    "file_set",
    "way",
    "engine",
    "batch",
    "audio_seconds",
    "sessions",
    "interval_ms",
    "precision",
    "drafts",
    "workers",
)
"""Fields that describe the measured thing; all other numbers are measurements."""
LEFT_OUT = ("machine", "settings", "seed", "trials", "one_more", "clips")
CONTAINERS = ("result", "results", "run", "measurements", "trial")  # their names add no information


def read(path: Path) -> dict[str, float]:
    """Return every figure of a results file by its name; the newest if it was measured several times."""
    figures: dict[str, float] = {}
    for line in path.read_text().splitlines():
        result = json.loads(line)
        figures |= dict(figures_of(result, result["benchmark"]))
    return figures


def figures_of(value: object, name: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers in a result, each named by the labels and fields on the path to it."""
    if isinstance(value, dict):
        labelled = value | value.get("trial", {})  # the settings of a search
        labels = [labelled[label] for label in LABELS if isinstance(labelled.get(label), (str, int, float))]
        said = ", ".join(map(text_of, labels))
        name = name if name.endswith(said) else f"{name}, {said}"
        for field, inner in value.items():
            if field not in LABELS and field not in LEFT_OUT:
                yield from figures_of(inner, name if field in CONTAINERS else f"{name}: {field}")
    elif isinstance(value, list):
        for inner in value:
            yield from figures_of(inner, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


def read_heard(path: Path) -> dict[str, list[Heard]]:
    """Return the clips of real recordings in a results file, by condition."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        line["condition"]: [speech.of_json(clip) for clip in line["clips"]] for line in lines if line["benchmark"] == "speech"
    }


def text_of(label: str | float) -> str:
    return label if isinstance(label, str) else f"{label:g}"


def compare(earlier: Path, later: Path) -> list[tuple[str, float, float]]:
    """Return name, earlier and later value of every figure that both files have."""
    before, now = read(earlier), read(later)
    return [(name, before[name], value) for name, value in now.items() if name in before]
