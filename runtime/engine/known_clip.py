"""A clip whose words are known. Every engine transcribes it before it serves; every network runs once in each group of slots.

A runtime that lacks kernels for a GPU may answer with zeros and raise no error; these must not be sent as words.
"""

import difflib
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.audio import Clip
from runtime.engine.protocol import Engine, Row
from runtime.exceptions import EngineFailed
from runtime.tokenizer import Tokenizer

RECORDING = Path(__file__).with_name("known_clip.wav")
SAID = "Ever tried, ever failed."
MOST_TOKENS = 40
LEAST_ALIKE = 0.7  # of 1: rounding may change a word, but no more


def clip() -> Clip:
    with wave.open(str(RECORDING), "rb") as file:
        return Clip(np.frombuffer(file.readframes(file.getnframes()), np.int16))


def check(engine: Engine, tokenizer: Tokenizer, known: Sequence[int]) -> None:
    """Transcribe the clip in each group of slots and compare. known: tokens of float32 from when the engine was built.

    Raises EngineFailed with the text found, if too little of it is alike.
    """
    limits = engine.limits
    for slot in range(0, limits.max_batch, limits.max_batch // limits.slot_groups):
        found = transcribe(engine, slot)
        if difflib.SequenceMatcher(None, known, found, autojunk=False).ratio() < LEAST_ALIKE:
            raise EngineFailed(
                f"{engine.name} hears {tokenizer.text(found)!r} in a clip that says {tokenizer.text(known)!r}: "
                "what it computes on this machine is wrong; ASR_TARGET names another engine"
            )


def transcribe(engine: Engine, slot: int) -> list[int]:
    """Return the tokens, decoded one at a time. Raises EngineFailed if the model predicts a NaN or infinity."""
    start, end = engine.limits.start_token, engine.limits.end_token
    engine.encode([slot], [clip()])
    tokens = [start]
    while tokens[-1] != end and len(tokens) <= MOST_TOKENS:
        (prediction,) = engine.decode([Row(slot, (tokens[-1],), len(tokens) - 1)])
        if not np.isfinite(prediction.log_probs).all():
            engine.clear(slot)
            raise EngineFailed(f"{engine.name} predicts what is no number on this machine; ASR_TARGET names another engine")
        tokens.append(int(prediction.tokens[0]))
    said = [token for token in tokens[1:] if token != end]
    if said:
        engine.align([slot], [said]).result()
    engine.free(slot)
    return said
