"""Conversion of token ids to text, and of terms to token ids.

Moonshine's vocabulary has pieces with `▁` for a space, `<0xNN>` for one byte, and empty ones for special ids.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.exceptions import EngineDirectoryError

FILE_NAME = "tokenizer.json"
SPACE = "▁"
WORDS = re.compile(r" *[^ ]+| +$")  # each with the space before it
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """The vocabulary of a model."""

    def __init__(self, pieces: Sequence[str]):
        self._numbers = {piece: number for number, piece in enumerate(pieces) if piece}
        self._bytes = [piece_bytes(piece) for piece in pieces]
        self._starts_word = [piece.startswith(SPACE) for piece in pieces]
        self._is_punctuation = [all(byte < 128 and not chr(byte).isalnum() for byte in each) for each in self._bytes]

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read the vocabulary of an engine directory. Raises EngineDirectoryError."""
        try:
            return cls(json.loads((directory / FILE_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError) as exc:
            raise EngineDirectoryError(f"{directory / FILE_NAME} cannot be read ({exc})") from exc

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of a hypothesis without space around it. A character with missing bytes is left out."""
        return b"".join(self._bytes[token] for token in tokens).decode("utf-8", errors="ignore").strip()

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens that the model would use for a text; a leading space counts.

        Neighbouring pieces of a word are joined while the vocabulary has the joined piece, the one with the lowest id first: the
        vocabulary's merges are numbered in that order. Raises ValueError for a character that the vocabulary cannot write.
        """
        return tuple(token for word in WORDS.findall(text) for token in self._tokens_of_word(word))

    def _tokens_of_word(self, word: str) -> list[int]:
        pieces = [piece for character in word.replace(" ", SPACE) for piece in self._spelled(character)]
        pairs = list(map(self._joined, pieces, pieces[1:]))
        while pairs and (lowest := min(pairs)) < len(self._bytes):
            first = pairs.index(lowest)
            pieces[first : first + 2] = [pieces[first] + pieces[first + 1]]
            beside = range(max(0, first - 1), min(first + 1, len(pieces) - 1))
            pairs[max(0, first - 1) : first + 2] = [self._joined(pieces[index], pieces[index + 1]) for index in beside]
        return [self._numbers[piece] for piece in pieces]

    def _joined(self, one: str, other: str) -> int:
        """Return the id of two pieces joined; if there is no such piece, a number above all ids."""
        return self._numbers.get(one + other, len(self._bytes))

    def _spelled(self, character: str) -> list[str]:
        pieces = [character] if character in self._numbers else [f"<0x{byte:02X}>" for byte in character.encode()]
        if not all(piece in self._numbers for piece in pieces):
            raise ValueError(f"the model's vocabulary has no {character!r}")
        return pieces

    def bytes_of(self, token: int) -> bytes:
        """Return the UTF-8 bytes that a token adds to a text."""
        return self._bytes[token]

    def starts_word(self, token: int) -> bool:
        return self._starts_word[token]

    def is_punctuation(self, token: int) -> bool:
        """True if the token has neither letter nor digit. A byte of a non-ASCII character counts as a letter."""
        return self._is_punctuation[token]


def piece_bytes(piece: str) -> bytes:
    if match := BYTE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE, " ").encode("utf-8")


def save(pieces: Sequence[str], directory: Path) -> None:
    (directory / FILE_NAME).write_text(json.dumps(list(pieces), ensure_ascii=False), encoding="utf-8")
