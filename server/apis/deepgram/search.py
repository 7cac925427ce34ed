"""The answer to Deepgram's `search`: places of words and phrases. They are looked for in the text, not in the sound."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from server.stream.formatting.options import Secret
from server.stream.formatting.rules import pieces_of
from server.stream.word_times import Word

PUNCTUATION = ".,?!;:…"
MASKS = {secret.mask for secret in Secret}  # nobody has said these


def described(phrases: Sequence[str], words: Sequence[Word]) -> dict[str, Any]:
    """The field search of a channel; none where nothing is looked for."""
    return {"search": [{"query": phrase, "hits": list(hits_of(phrase, words))} for phrase in phrases]} if phrases else {}


def hits_of(phrase: str, words: Sequence[Word]) -> Iterator[dict[str, Any]]:
    """Yield each place where a phrase stands in the text, in any case and punctuation."""
    wanted = plain(phrase.split())
    parts = [(part, word) for word in words if word.w.strip(PUNCTUATION) not in MASKS for part in word.w.split()]
    said = plain([part for part, _ in parts])
    for at in range(len(said) - len(wanted) + 1):
        if said[at : at + len(wanted)] == wanted:
            yield hit([word for _, word in parts[at : at + len(wanted)]])


def hit(found: Sequence[Word]) -> dict[str, Any]:
    return {
        "confidence": round(mean(word.confidence for word in found), 4),
        "start": found[0].start_ms / 1000,
        "end": found[-1].end_ms / 1000,
        "snippet": " ".join(dict.fromkeys(word.w for word in found)),
    }


def plain(words: Sequence[str]) -> list[str]:
    return [piece.plain for piece in pieces_of(words)]
