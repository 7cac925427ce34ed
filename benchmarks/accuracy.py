"""Word error rate, as the project reports it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer

PROJECT = Path(__file__).resolve().parent.parent
SAMPLES = PROJECT / "samples"
EVALUATION = PROJECT / "tests" / "data" / "eval"


@dataclass(frozen=True)
class Utterance:
    path: Path
    text: str


def evaluation_clips() -> list[Utterance]:
    manifest = json.loads((EVALUATION / "manifest.json").read_text())
    return [Utterance(EVALUATION / entry["file"], entry["text"]) for entry in manifest]


def samples() -> list[Utterance]:
    return [Utterance(path, path.with_suffix(".txt").read_text().strip()) for path in sorted(SAMPLES.glob("*.wav"))]


def normalise(text: str) -> str:
    """Lower case, letters, digits and apostrophes only."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Per cent, over all words of all references together."""
    return 100 * jiwer.wer(list(map(normalise, references)), list(map(normalise, hypotheses)))
