"""JSON as clients send it."""

import json
from typing import Any

from server.errors import ClientError, Code


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object. what: the text's name in the error. Raises ClientError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ClientError(Code.BAD_JSON, f"{what} must be JSON") from exc
    if not isinstance(value, dict):
        raise ClientError(Code.BAD_JSON, f"{what} must be a JSON object")
    return value
