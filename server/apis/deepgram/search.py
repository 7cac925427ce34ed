"""The answer to Deepgram's `search`: places of words and phrases. The search is in the text, not in the sound."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from server.stream.formatting.options import Secret
from server.stream.formatting.rules import pieces_of
from server.stream.word_times import Word

PUNCTUATION = ".,?!;:…"
MASKS = {secret.mask for secret in Secret}  # these were not spoken


def described(phrases: Sequence[str], words: Sequence[Word]) -> dict[str, Any]:
    """Return the field `search` of a channel; empty if nothing is searched for."""
    if not phrases:
        return {}
    text = SearchedText(words)
    return {"search": [{"query": phrase, "hits": list(text.hits_of(phrase))} for phrase in phrases]}


class SearchedText:
    """The words of a text, prepared once for all phrases: a recording may have twenty thousand."""

    def __init__(self, words: Sequence[Word]):
        parts = [(part, word) for word in words if word.w.strip(PUNCTUATION) not in MASKS for part in word.w.split()]
        self._words = [word for _, word in parts]
        self._said = plain([part for part, _ in parts])
        self._places: dict[str, list[int]] = {}
        for place, said in enumerate(self._said):
            self._places.setdefault(said, []).append(place)

    def hits_of(self, phrase: str) -> Iterator[dict[str, Any]]:
        """Yield each place where a phrase stands in the text, ignoring case and punctuation."""
        wanted = plain(phrase.split())
        for place in self._places.get(wanted[0], ()):
            if self._said[place : place + len(wanted)] == wanted:
                yield hit(self._words[place : place + len(wanted)])


def hit(found: Sequence[Word]) -> dict[str, Any]:
    return {
        "confidence": round(mean(word.confidence for word in found), 4),
        "start": found[0].start_ms / 1000,
        "end": found[-1].end_ms / 1000,
        "snippet": " ".join(dict.fromkeys(word.w for word in found)),
    }


def plain(words: Sequence[str]) -> list[str]:
    return [piece.plain for piece in pieces_of(words)]
