"""An engine that hears other words than it should is refused before it serves."""

import numpy as np
import pytest

from runtime.engine import known_clip, selection
from runtime.engine.manifest import FILE_NAME, ONNXRUNTIME, Manifest
from runtime.engine.protocol import Answered, Engine, Limits, Prediction
from runtime.exceptions import EngineFailed
from runtime.tokenizer import Tokenizer
from tests.conftest import ENGINES, MODEL

KNOWN = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
PIECES = Tokenizer([f"▁{index}" for index in range(30)])
LIMITS = Limits(max_batch=8, max_samples=80_000, max_positions=194, encode_rows=8, start_token=1, end_token=2, slot_groups=2)


class Says(Engine):
    """In each group of slots, the tokens it is told to, behind one another."""

    name = "fake fp16"

    def __init__(self, *groups: tuple[int, ...], log_prob: float = -0.1):
        self.limits = LIMITS
        self._groups, self._log_prob = groups, log_prob
        self.cleared, self.freed = [], []

    def encode(self, slots, clips) -> None:
        assert clips[0].seconds > 1

    def launch(self, rows):
        (row,) = rows
        said = (*self._groups[row.slot // 4], 2)
        return Answered([Prediction(np.array([said[row.past_length]]), np.array([self._log_prob]))])

    def align(self, slots, tokens):
        return Answered([np.ones((len(said), 5), np.float32) for said in tokens])

    def free(self, slot: int) -> None:
        self.freed.append(slot)

    def clear(self, slot: int) -> None:
        self.cleared.append(slot)


def test_the_right_words_and_one_that_rounding_tipped_are_taken():
    engine = Says(KNOWN, (*KNOWN[:4], 25, *KNOWN[5:]))
    known_clip.check(engine, PIECES, KNOWN)
    assert engine.freed == [0, 4], "each group of slots was tried"


@pytest.mark.parametrize(
    "wrong", [(0,) * 41, (), tuple(range(20, 30)), (10,) * 41], ids=["zeros", "nothing", "others", "one again and again"]
)
def test_other_words_are_refused_in_whatever_group_of_slots_they_come(wrong):
    with pytest.raises(EngineFailed, match=r"fake fp16 hears .* in a clip that says '10 11 12 13 14 15 16 17 18 19'"):
        known_clip.check(Says(KNOWN, wrong), PIECES, KNOWN)


@pytest.mark.parametrize("log_prob", [np.nan, -np.inf])
def test_what_is_no_number_is_refused(log_prob):
    with pytest.raises(EngineFailed, match="predicts what is no number"):
        known_clip.check(Says(KNOWN, KNOWN, log_prob=log_prob), PIECES, KNOWN)


def test_an_engine_is_opened_only_where_it_hears_the_words_of_the_build(built, monkeypatch):
    directory = built("fp32")
    found = Manifest.model_validate_json((directory / FILE_NAME).read_bytes())
    choice = selection.choose(ENGINES, MODEL, "fp32", ONNXRUNTIME)
    engine, tokenizer, _ = selection.open_engine(choice, 2)
    engine.close()
    assert tokenizer.text(found.known_tokens).lower().startswith("ever tried")
    other = found.model_copy(update={"known_tokens": tuple(range(300, 320))})
    monkeypatch.setattr(selection.manifest, "load", lambda *asked: other)
    with pytest.raises(EngineFailed, match="Ever tried"):
        selection.open_engine(choice, 2)
