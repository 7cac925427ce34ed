"""The checkpoint of a streaming model that knows six recordings by heart: written by scripts/learn_by_heart.py."""

import json

from tests.conftest import PROJECT

LEARNED = PROJECT / "tests" / "data" / "learned"
TEXTS: dict[str, str] = json.loads((LEARNED / "recordings.json").read_text())
"""Texts of the recordings that it knows, by name."""
