"""Options of the text that a client gets; all are off by default."""

import enum
from dataclasses import dataclass


class Secret(enum.Enum):
    """A kind of text that is replaced by its name."""

    CARD = "[CREDIT_CARD]"
    """Numbers of payment cards, their expiry dates and security codes."""
    SSN = "[SSN]"
    """United States social security numbers."""
    LONG_NUMBER = "[NUMBER]"
    """Numbers of three digits or more."""
    ANY_NUMBER = "[NUMBER] "
    """Every number."""
    EMAIL = "[EMAIL_ADDRESS]"

    @property
    def mask(self) -> str:
        """The text that replaces it."""
        return self.value.strip()


@dataclass(frozen=True)
class Replacement:
    """A word or phrase, and the text that is written in its place."""

    find: str
    replace: str


@dataclass(frozen=True)
class TextOptions:
    """Rules for the text of a stream."""

    numerals: bool = False
    """True if numbers are written in digits."""
    redacted: frozenset[Secret] = frozenset()
    masks_profanity: bool = False
    drops_fillers: bool = False
    """True if "uh" and "um" are left out."""
    replacements: tuple[Replacement, ...] = ()
    is_cut_before: bool = False
    """True if the audio continues earlier audio that is not known: a number may have begun there."""
    is_cut_after: bool = False
    """True if the audio continues in another stream."""

    @property
    def are_plain(self) -> bool:
        """True if the text stays as the model writes it."""
        return not (self.numerals or self.redacted or self.masks_profanity or self.drops_fillers or self.replacements)


PLAIN_TEXT = TextOptions()
