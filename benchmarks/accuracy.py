"""Word error rate, as the project reports it."""

import functools
import json
import re
from collections.abc import Callable, Sequence
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
    words = len(reference.split())
    if not words or not hypothesis:
        return max(words, len(hypothesis.split())), words
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions, words
