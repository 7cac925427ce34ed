"""Token ids into text. Moonshine's vocabulary: pieces with `▁` for a space, `<0xNN>` for one byte, empty for special ids."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.exceptions import EngineDirectoryError

FILE_NAME = "tokenizer.json"
SPACE = "▁"
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Decodes; nothing here needs to encode."""

    def __init__(self, pieces: Sequence[str]):
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
        """The text of a hypothesis, without space around it. A character cut off in the middle of its bytes is left out."""
        return b"".join(self._bytes[token] for token in tokens).decode("utf-8", errors="ignore").strip()

    def starts_word(self, token: int) -> bool:
        return self._starts_word[token]

    def is_punctuation(self, token: int) -> bool:
        """True if the text has neither letter nor digit. A byte of a character beyond ASCII counts as a letter."""
        return self._is_punctuation[token]


def piece_bytes(piece: str) -> bytes:
    if match := BYTE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE, " ").encode("utf-8")


def save(pieces: Sequence[str], directory: Path) -> None:
    (directory / FILE_NAME).write_text(json.dumps(list(pieces), ensure_ascii=False), encoding="utf-8")
