"""Paragraphs of a recording, as Deepgram's clients read them: sentences by punctuation, paragraphs by pauses between them."""

from collections.abc import Iterator, Sequence
from typing import Any

from server.stream.word_times import Word

PARAGRAPH_PAUSE_MS = 1200
"""Pause after a sentence that ends a paragraph."""
MOST_SENTENCES = 6  # of a paragraph
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
QUOTES = "\"'”’)»"


def described(words: Sequence[Word]) -> dict[str, Any]:
    """Return the field `paragraphs` of an alternative."""
    found = list(paragraphs_of(words))
    text = "\n\n".join(" ".join(map(text_of, sentences)) for sentences in found)
    return {"transcript": f"\n{text}", "paragraphs": list(map(paragraph, found))}


def paragraph(sentences: Sequence[Sequence[Word]]) -> dict[str, Any]:
    return {
        "sentences": [{"text": text_of(sentence), **times_of(sentence)} for sentence in sentences],
        "num_words": sum(map(len, sentences)),
        **times_of([*sentences[0], *sentences[-1]]),
    }


def text_of(words: Sequence[Word]) -> str:
    return " ".join(word.w for word in words)


def times_of(words: Sequence[Word]) -> dict[str, float]:
    return {"start": words[0].start_ms / 1000, "end": words[-1].end_ms / 1000}


def paragraphs_of(words: Sequence[Word]) -> Iterator[list[list[Word]]]:
    """Yield the sentences of each paragraph."""
    sentences: list[list[Word]] = []
    for sentence in sentences_of(words):
        pause_ms = sentence[0].start_ms - sentences[-1][-1].end_ms if sentences else 0
        if pause_ms >= PARAGRAPH_PAUSE_MS or len(sentences) == MOST_SENTENCES:
            yield sentences
            sentences = []
        sentences.append(sentence)
    if sentences:
        yield sentences


def sentences_of(words: Sequence[Word]) -> Iterator[list[Word]]:
    sentence: list[Word] = []
    for word in words:
        sentence.append(word)
        if word.w.rstrip(QUOTES).endswith(SENTENCE_ENDS):
            yield sentence
            sentence = []
    if sentence:
        yield sentence
