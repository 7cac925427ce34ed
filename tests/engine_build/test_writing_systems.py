"""An English engine writes Latin letters only."""

import pytest

from engine_build import checkpoint
from engine_build import writing_systems as scripts

ENGLISH = ("", "▁hello", "’", "▁café", "♪", "½", "€", "µ", "<0x41>", "<0xC3>", "<0xA9>", "<0xE2>")
FOREIGN = ("你", "▁م", "한", "▁Д", "ि", "１", "<0xE4>", "<0xD9>", "a你")


@pytest.mark.parametrize("piece", ENGLISH)
def test_what_english_is_written_with_may_be_said(piece):
    assert scripts.is_latin(piece)


@pytest.mark.parametrize("piece", FOREIGN)
def test_what_writes_other_scripts_may_not(piece):
    assert not scripts.is_latin(piece)
    assert scripts.forbidden_tokens([piece], scripts.LATIN).all() and not scripts.forbidden_tokens([piece], scripts.ANY).any()


def test_only_models_known_to_be_english_are_kept_to_it():
    """A checkpoint of another language would fall silent."""
    known = {checkpoint.script_of(model) for model in (checkpoint.DEFAULT_MODEL, checkpoint.TINY_MODEL)}
    assert known == {scripts.LATIN} and checkpoint.script_of("UsefulSensors/moonshine-base-zh") == scripts.ANY
