"""The tokens that a checkpoint of one script may write.

Moonshine's vocabulary holds pieces of all scripts. A checkpoint that was trained on English writes another script if it
understands nothing (accents, children, single words), which is useless to an English client.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

LATIN, ANY = "latin", "any"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
LATIN_BYTES = (range(0x80), range(0x80, 0xCC), (0xE2,))
"""Allowed bytes of UTF-8: ASCII, continuations, first bytes of Latin characters, of general punctuation and of currency."""

LATIN_SIGNS = "ªºµ"  # Unicode counts them as letters


def forbidden_tokens(pieces: Sequence[str], script: str) -> np.ndarray:
    """Return bool (vocabulary,): true for tokens that write letters of other scripts."""
    return np.array([script == LATIN and not is_latin(piece) for piece in pieces])


def is_latin(piece: str) -> bool:
    if match := BYTE.fullmatch(piece):
        return any(int(match[1], 16) in allowed for allowed in LATIN_BYTES)
    return all(map(may_stand_in_latin, piece))


def may_stand_in_latin(character: str) -> bool:
    """True if the character may occur in Latin text. Letters, marks and digits belong to a script; signs and punctuation to
    all."""
    name = unicodedata.name(character, "")
    of_a_script = unicodedata.category(character)[0] in "LM" or character.isdecimal()
    return character.isascii() or not of_a_script or name.startswith(("LATIN", "COMBINING")) or character in LATIN_SIGNS
