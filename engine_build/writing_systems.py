"""The tokens that a checkpoint of one script may say.

Moonshine's vocabulary holds pieces of all scripts. A checkpoint that was trained on English falls into another one where it
understands nothing (accents, children, single words), and an English client can do nothing with that.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

LATIN, ANY = "latin", "any"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
LATIN_BYTES = (range(0x80), range(0x80, 0xCC), (0xE2,))
"""Bytes of UTF-8: ASCII, continuations, first bytes of Latin characters, of general punctuation and of currency."""

LATIN_SIGNS = "ªºµ"  # letters to Unicode


def forbidden_tokens(pieces: Sequence[str], script: str) -> np.ndarray:
    """bool (vocabulary,): the tokens that write letters of other scripts."""
    return np.array([script == LATIN and not is_latin(piece) for piece in pieces])


def is_latin(piece: str) -> bool:
    if match := BYTE.fullmatch(piece):
        return any(int(match[1], 16) in allowed for allowed in LATIN_BYTES)
    return all(map(may_stand_in_latin, piece))


def may_stand_in_latin(character: str) -> bool:
    """Letters, marks and digits belong to a script; signs and punctuation to all of them."""
    name = unicodedata.name(character, "")
    of_a_script = unicodedata.category(character)[0] in "LM" or character.isdecimal()
    return character.isascii() or not of_a_script or name.startswith(("LATIN", "COMBINING")) or character in LATIN_SIGNS
