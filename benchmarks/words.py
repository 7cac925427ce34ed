"""Compares the words of streams with the undisturbed text of the same speech."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer


@dataclass
class WordCounts:
    """Counts against the nearest of several possible texts."""

    words: int = 0
    missing: int = 0
    added: int = 0
    changed: int = 0
    uncovered_seconds: float = 0.0
    """Seconds of sent audio that the final's audio_ms does not cover, or covers twice."""

    def note(self, texts: Sequence[str], text: str, sent_seconds: float, heard_seconds: float) -> bool:
        """Add one more stream, with normalised texts; returns whether no word differs."""
        found = min((jiwer.process_words(each, text) for each in texts), key=lambda found: found.wer)
        self.words += found.hits + found.substitutions + found.deletions
        self.missing += found.deletions
        self.added += found.insertions
        self.changed += found.substitutions
        self.uncovered_seconds += abs(sent_seconds - heard_seconds)
        return found.wer == 0
