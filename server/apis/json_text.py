"""JSON for messages to clients."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


def encoded(value: object) -> str:
    """Return JSON in one line. A lone surrogate, which JSON can hold and UTF-8 cannot, stays escaped."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


@dataclass(frozen=True)
class JsonMessage:
    """A message to a client. Its field `type` is the name of its kind."""

    fields: Mapping[str, Any]
    droppable: bool = False
    """True if it may be left out for a client that reads too slowly."""
    latency_ms: float | None = None

    @property
    def op(self) -> str:
        return str(self.fields["type"])

    def forms(self) -> "Iterator[JsonMessage]":
        """Yield the message; there is no shorter form."""
        yield self

    def encode(self) -> str:
        return encoded(self.fields)
