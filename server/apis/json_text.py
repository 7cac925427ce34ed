"""JSON as it is sent."""

import json


def encoded(value: object) -> str:
    """Return JSON in one line. A lone surrogate, which JSON can hold and UTF-8 cannot, stays as it came: escaped."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
