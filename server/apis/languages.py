"""The language that a client requests, checked against the model's."""

from collections.abc import Sequence

from runtime.languages import Language, language_of
from server.errors import ClientError, Code

ANY = ("", "auto", "automatic", "detect", "multi", "none", "null", "und", "unknown")
"""Values by which clients name no language."""


def check(asked: Sequence[str], model_id: str) -> Language:
    """Return the model's language. Only "en" of en-US or en_US counts. Raises ClientError if only others are requested."""
    language = language_of(model_id)
    named = [each for each in (one.strip().lower().replace("_", "-").partition("-")[0] for one in asked) if each not in ANY]
    if named and not any(each in language.names for each in named):
        raise ClientError(
            Code.UNSUPPORTED_LANGUAGE, f"the model understands {language.name.title()}, not {named[0][:20]!r}", "language"
        )
    return language
