"""The engine protocol: encode audio into slots, decode blocks of tokens against them. Used only on the engine loop's thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.audio import Clip


@dataclass(frozen=True)
class Limits:
    """What one engine can hold and how it likes its work."""

    max_batch: int
    """Slots, and the most rows of one decode."""
    max_samples: int
    """Longest clip one slot can hold."""
    max_positions: int
    """Most tokens of a row, the start token included."""
    encode_rows: int
    """Rows to hand over in one encode: the largest batch where batching pays, 1 where it does not."""
    start_token: int
    end_token: int


@dataclass(frozen=True)
class Row:
    """One row's share of a decode."""

    slot: int
    tokens: tuple[int, ...]
    """New tokens to feed, at least one; they take positions past_length, past_length + 1, …"""
    past_length: int
    """Positions of the slot's self-attention cache that hold; whatever lies behind is overwritten."""
    end_bias: float = 0.0
    """Subtracted from the end token's logit at position 0."""


@dataclass(frozen=True)
class Prediction:
    """What the decoder says after each token fed."""

    tokens: np.ndarray
    """int64 (new,): the greedy next token after each position."""
    log_probs: np.ndarray
    """float32 (new,): its log-probability, without the end bias."""


class Engine(Protocol):
    """A Moonshine model with `limits.max_batch` slots. A row's answers do not depend on the other rows of a call."""

    limits: Limits
    name: str
    """For logs and metrics: target and precision."""

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        """Fill each slot with the cross-attention keys and values of its clip; what a slot held before is gone.

        Raises ValueError for a slot or a clip outside the limits, EngineError where the device fails.
        """

    def decode(self, rows: Sequence[Row]) -> list[Prediction]:
        """Feed each row's tokens to its slot, in one or more passes; predictions in the order of rows.

        The keys and values of all tokens fed are kept at their positions.
        Raises ValueError for a row outside the limits or of a slot that was never encoded.
        """

    def free(self, slot: int) -> None:
        """The slot's contents are no longer needed."""

    def close(self) -> None:
        """Release what the engine holds. No other call may follow."""
