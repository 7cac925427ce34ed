"""The languages that Moonshine models have, and which of them a model transcribes, by its name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Language:
    code: str
    """ISO 639-1."""
    name: str
    """English."""
    other_names: tuple[str, ...]
    """ISO 639-2, and what else clients write; lower case."""
    is_latin: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return self.code, self.name, *self.other_names


ENGLISH = Language("en", "english", ("eng",), is_latin=True)
LANGUAGES = (
    ENGLISH,
    Language("ar", "arabic", ("ara",)),
    Language("es", "spanish", ("spa", "castilian"), is_latin=True),
    Language("ja", "japanese", ("jpn",)),
    Language("ko", "korean", ("kor",)),
    Language("uk", "ukrainian", ("ukr",)),
    Language("vi", "vietnamese", ("vie",), is_latin=True),
    Language("zh", "chinese", ("zho", "chi", "mandarin", "cmn")),
)


def language_of(model: str) -> Language:
    """Return the language that the last part of a model's name says, as in moonshine-base-es; English where it says none.

    model: a hub id or a directory.
    """
    _, dash, last = Path(model).name.lower().rpartition("-")
    return next((language for language in LANGUAGES if dash and language.code == last), ENGLISH)
