"""JSON from clients."""

import json
import math
from typing import Any, TypeGuard

from server.errors import ClientError, Code

MOST_WHOLE = 10**9  # of whole numbers that clients send


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object. what: the text's name in the error. Raises ClientError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ClientError(Code.BAD_JSON, f"{what} must be JSON") from exc
    if not isinstance(value, dict):
        raise ClientError(Code.BAD_JSON, f"{what} must be a JSON object")
    return value


def are_texts(value: object) -> TypeGuard[list[str]]:
    """True for a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def whole_number(value: object, name: str) -> int:
    """Return a number that some clients send as 8000.0 or "8000". Raises ClientError."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number == int(number) and abs(number) < MOST_WHOLE):
        raise ClientError(Code.INVALID_VALUE, f"{name} must be a whole number", name)
    return int(number)
