"""The languages of Moonshine models, and the language of a model by its name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Language:
    code: str
    """ISO 639-1 code."""
    name: str
    """English name."""
    other_names: tuple[str, ...]
    """ISO 639-2 codes, and other names that clients use; lower case."""
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
    """Return the language named by the last part of a model's name, as in moonshine-base-es; English if it names none.

    model: a hub id or a directory.
    """
    _, dash, last = Path(model).name.lower().rpartition("-")
    return next((language for language in LANGUAGES if dash and language.code == last), ENGLISH)
