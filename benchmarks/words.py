"""Words of streams against what the same speech gives undisturbed."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer


@dataclass
class WordCounts:
    """Against the nearest of several texts, each a possible one."""

    words: int = 0
    missing: int = 0
    added: int = 0
    changed: int = 0
    uncovered_seconds: float = 0.0
    """Audio that was sent and is not covered by the final's audio_ms, or is covered twice."""

    def note(self, texts: Sequence[str], text: str, sent_seconds: float, heard_seconds: float) -> bool:
        """Of one more stream, normalised texts; returns whether no word differs."""
        found = min((jiwer.process_words(each, text) for each in texts), key=lambda found: found.wer)
        self.words += found.hits + found.substitutions + found.deletions
        self.missing += found.deletions
        self.added += found.insertions
        self.changed += found.substitutions
        self.uncovered_seconds += abs(sent_seconds - heard_seconds)
        return found.wer == 0
