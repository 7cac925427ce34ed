"""Options of the text that clients request, checked."""

from collections.abc import Iterable, Mapping

from runtime.languages import ENGLISH, language_of
from server.errors import ClientError, Code
from server.stream.formatting.options import Replacement, Secret, TextOptions
from server.stream.formatting.rules import pieces_of

MOST_REPLACEMENTS = 200
MOST_CHARACTERS = 100  # of a phrase, and of its replacement
SECRETS = {
    "pci": Secret.CARD,
    "credit_card": Secret.CARD,
    "ssn": Secret.SSN,
    "numbers": Secret.LONG_NUMBER,
    "true": Secret.LONG_NUMBER,
    "aggressive_numbers": Secret.ANY_NUMBER,
    "email": Secret.EMAIL,
    "email_address": Secret.EMAIL,
}
NOTHING = ("", "false")


def secrets(names: Iterable[str], parameter: str = "redact") -> frozenset[Secret]:
    """Return the secrets with these names; case is ignored, commas separate several. Raises ClientError for unknown ones."""
    asked = [name.strip().lower() for each in names for name in each.split(",")]
    for name in asked:
        if name not in SECRETS and name not in NOTHING:
            raise ClientError(
                Code.UNSUPPORTED_VALUE, f"{parameter}: {name[:40]!r} is not redacted here, only {', '.join(SECRETS)}", parameter
            )
    return frozenset(SECRETS[name] for name in asked if name not in NOTHING)


def replacements(pairs: Iterable[tuple[str, str]], parameter: str = "replace") -> tuple[Replacement, ...]:
    """Return phrases and their replacements; of equal phrases, the last one. Raises ClientError."""
    found: dict[str, Replacement] = {}
    for find, replace in pairs:
        phrase = " ".join(piece.plain for piece in pieces_of(find.split()))
        check_text(find, parameter)
        check_text(replace, parameter)
        if not phrase.strip():
            raise ClientError(Code.INVALID_VALUE, f"{parameter}: a phrase to be replaced has no word in it", parameter)
        found[phrase] = Replacement(find, " ".join(replace.split()))
        if len(found) > MOST_REPLACEMENTS:
            raise ClientError(Code.INVALID_VALUE, f"{parameter}: {MOST_REPLACEMENTS} phrases at most are taken", parameter)
    return tuple(found.values())


def check_text(text: str, parameter: str) -> None:
    """Raises ClientError for a text that is too long, or cannot be printed."""
    if len(text) > MOST_CHARACTERS:
        raise ClientError(Code.INVALID_VALUE, f"{parameter}: a text has {MOST_CHARACTERS} characters at most", parameter)
    if not text.isprintable():
        raise ClientError(Code.INVALID_VALUE, f"{parameter}: a text has characters that cannot be printed", parameter)


def check_language(options: TextOptions, model_id: str) -> None:
    """Raises ClientError if rules for English text are requested, and the model writes another language."""
    english: Mapping[str, object] = {
        "numerals": options.numerals,
        "redact": options.redacted,
        "profanity_filter": options.masks_profanity,
        "filler_words": options.drops_fillers,
    }
    language = language_of(model_id)
    asked = [name for name, value in english.items() if value]
    if asked and language is not ENGLISH:
        name = language.name.title()
        raise ClientError(Code.UNSUPPORTED_PARAMETER, f"{asked[0]} is for English text; the model writes {name}", asked[0])
