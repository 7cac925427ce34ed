"""Keyterms that clients request: checked, without duplicates."""

import math
import re
from collections.abc import Collection, Iterable, Iterator

from server.errors import ClientError, Code
from server.stream.terms import Term

MOST_TERMS = 200
MOST_CHARACTERS = 100  # of a term
MOST_CHARACTERS_TOGETHER = 10_000
"""Most characters of all terms together. Finding their tokens takes 3 us a character and blocks the event loop."""
MOST_BOOST = 5.0
"""A higher boost breaks the text between the terms."""
MOST_PROMPT_CHARACTERS = 16_384
LEAST_LISTED, MOST_LISTED_WORDS = 3, 4  # fewest parts of a prompt that is a list, and most words of each
WORD = re.compile(r"[^\W_][\w'’.&+-]*[^\W_]|[^\W_]")
SENTENCE_ENDS = frozenset(".!?:")


def checked(terms: Iterable[Term], parameter: str) -> tuple[Term, ...]:
    """Return the terms without empty ones and duplicates. Raises ClientError."""
    found = {}
    for term in terms:
        text = " ".join(term.text.split())
        if len(text) > MOST_CHARACTERS:
            raise ClientError(Code.INVALID_VALUE, f"{parameter}: a term has {MOST_CHARACTERS} characters at most", parameter)
        if not text.isprintable():
            raise ClientError(Code.INVALID_VALUE, f"{parameter}: a term has characters that cannot be printed", parameter)
        if not (math.isfinite(term.boost) and 0 < term.boost <= MOST_BOOST):
            raise ClientError(Code.INVALID_VALUE, f"{parameter}: a boost is more than 0, at most {MOST_BOOST:g}", parameter)
        if text:
            found[text] = Term(text, term.boost)
        if len(found) > MOST_TERMS:
            raise ClientError(Code.INVALID_VALUE, f"{parameter}: {MOST_TERMS} terms at most are taken", parameter)
    if sum(map(len, found)) > MOST_CHARACTERS_TOGETHER:
        message = f"{parameter}: the terms together have {MOST_CHARACTERS_TOGETHER:,} characters at most"
        raise ClientError(Code.INVALID_VALUE, message, parameter)
    return tuple(found.values())


def usable(texts: Iterable[object]) -> list[str]:
    """Return the texts that can be terms, up to the limit: for clients that would end at a refusal."""
    return list(fitting((" ".join(text.split()) for text in texts if isinstance(text, str)), taken=()))


def fitting(texts: Iterable[str], taken: Collection[str]) -> Iterator[str]:
    """Yield each text once that can be a term, as long as there is room for it beside the terms that are taken."""
    found, room = set(taken), MOST_CHARACTERS_TOGETHER - sum(map(len, taken))
    for text in texts:
        is_term = 0 < len(text) <= min(MOST_CHARACTERS, room) and text.isprintable()
        if is_term and len(found) < MOST_TERMS and text not in found:
            found.add(text)
            room -= len(text)
            yield text


def with_prompt(terms: Iterable[Term], prompt: str, parameter: str) -> tuple[Term, ...]:
    """Return the terms, and as many names in a prompt as there is room for. Raises ClientError for the terms."""
    found = checked(terms, parameter)
    names = fitting(names_in(prompt[:MOST_PROMPT_CHARACTERS]), taken=[term.text for term in found])
    return (*found, *map(Term, names))


def names_in(prompt: str) -> Iterator[str]:
    """Yield the names and unusual words of a text.

    If the text is a list with commas and without the marks of a sentence, these are its parts. Otherwise they are words that are
    capitalised within a sentence, or that have digits or capital letters after their first letter.
    """
    parts = [" ".join(part.split()).strip(".\"' ") for part in re.split(r"[,;\n]", prompt)]
    is_sentence = re.search(r"[.!?…](\s|$)", prompt) is not None
    if len(parts) >= LEAST_LISTED and not is_sentence and all(len(part.split()) <= MOST_LISTED_WORDS for part in parts):
        yield from filter(None, parts)
        return
    end = 0
    for match in WORD.finditer(prompt):
        begins_sentence = end == 0 or not SENTENCE_ENDS.isdisjoint(prompt[end : match.start()])
        end = match.end()
        if len(match[0]) > 1 and is_unusual(match[0], begins_sentence):
            yield match[0]


def is_unusual(word: str, begins_sentence: bool) -> bool:
    if word.partition("'")[0].partition("’")[0] == "I":
        return False
    marked = any(character.isupper() or character.isdigit() for character in word[1:])
    return marked or (word[0].isupper() and not begins_sentence)
