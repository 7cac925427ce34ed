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
    """Return the WAV file beside a recording if there is one: benchmarks/borrowed_gpu/bundle.sh adds it for use without PyAV."""
    return path.with_suffix(".wav") if path.with_suffix(".wav").is_file() else path


def samples() -> list[Utterance]:
    return [Utterance(path, path.with_suffix(".txt").read_text().strip()) for path in sorted(SAMPLES.glob("*.wav"))]


def normalise(text: str) -> str:
    """Return the text in lower case, with letters, digits and apostrophes only."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the word error rate in per cent, over all words of all references together."""
    pairs = [
        (normalise(reference).split(), normalise(hypothesis).split())
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return 100 * sum(edits(*pair) for pair in pairs) / sum(len(reference) for reference, _ in pairs)


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the least number of substitutions, deletions and insertions: Levenshtein's distance."""
    row = list(range(len(hypothesis) + 1))
    for count, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], count
        for place, other in enumerate(hypothesis, 1):
            diagonal, row[place] = row[place], min(diagonal + (word != other), row[place] + 1, row[place - 1] + 1)
    return row[-1]


@functools.cache
def english() -> Callable[[str], str]:
    """Return Whisper's normaliser for English."""
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalise_as_spoken(text: str) -> str:
    """Normalise by Whisper's English rules, with digits one by one: "twenty-one" and "21" are the same."""
    return " ".join(re.sub(r"(\d)", r" \1 ", english()(text)).split())


def spelled(text: str) -> str:
    """Return the text with every character as a word, for the character error rate."""
    return " ".join(normalise_as_spoken(text).replace(" ", ""))


def count_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the number of errors, and of words of the reference; the texts must be normalised already."""
    words = reference.split()
    return edits(words, hypothesis.split()), len(words)
