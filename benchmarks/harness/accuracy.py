"""Word error rate, as the project reports it."""

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
SAMPLES = PROJECT / "samples"
EVALUATION = PROJECT / "tests" / "data" / "eval"


@dataclass(frozen=True)
class Utterance:
    path: Path
    text: str


def evaluation_clips() -> list[Utterance]:
    manifest = json.loads((EVALUATION / "manifest.json").read_text())
    return [Utterance(readable(EVALUATION / entry["file"]), entry["text"]) for entry in manifest]


def readable(path: Path) -> Path:
    """A WAV file in its place where there is one: benchmarks/borrowed_gpu/bundle.sh brings them to where there is no PyAV."""
    return path.with_suffix(".wav") if path.with_suffix(".wav").is_file() else path


def samples() -> list[Utterance]:
    return [Utterance(path, path.with_suffix(".txt").read_text().strip()) for path in sorted(SAMPLES.glob("*.wav"))]


def normalise(text: str) -> str:
    """Lower case, letters, digits and apostrophes only."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Per cent, over all words of all references together."""
    pairs = [
        (normalise(reference).split(), normalise(hypothesis).split())
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return 100 * sum(edits(*pair) for pair in pairs) / sum(len(reference) for reference, _ in pairs)


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Substitutions, deletions and insertions, as few as there can be: Levenshtein's distance."""
    row = list(range(len(hypothesis) + 1))
    for count, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], count
        for place, other in enumerate(hypothesis, 1):
            diagonal, row[place] = row[place], min(diagonal + (word != other), row[place] + 1, row[place - 1] + 1)
    return row[-1]


@functools.cache
def english() -> Callable[[str], str]:
    """Whisper's English rules."""
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalise_as_spoken(text: str) -> str:
    """By Whisper's English rules, and digits one by one: "twenty-one" and "21" are the same."""
    return " ".join(re.sub(r"(\d)", r" \1 ", english()(text)).split())


def spelled(text: str) -> str:
    """Every character a word, for the character error rate."""
    return " ".join(normalise_as_spoken(text).replace(" ", ""))


def count_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions, and the words of the reference; of texts that are normalised already."""
    words = reference.split()
    return edits(words, hypothesis.split()), len(words)
