"""The engine protocol: encode audio into slots, decode blocks of tokens against them. Used only on the engine loop's thread."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from runtime.audio import SAMPLES_PER_FRAME, Clip


@dataclass(frozen=True)
class Limits:
    """Sizes that one engine can hold, and the best way to use it."""

    max_batch: int
    """Number of slots."""
    max_samples: int
    """Longest clip one slot can hold."""
    max_positions: int
    """Most tokens of a row, the start token included."""
    encode_rows: int
    """Rows to pass to one encode: the largest batch if batching is faster, else 1."""
    start_token: int
    end_token: int
    encode_lanes: int = 0
    """Clips that it encodes in parallel, each started by begin_encode(); 0 means that an encode is a step like any other."""
    lanes_beside_decode: int = 1
    """Number of these lanes that encode while rows are decoded."""
    slot_groups: int = 1
    """Number of groups of consecutive slots, of one size, that the engine works on in parallel; all slots of one call belong to
    one group."""
    token_scale: float = 1.0
    """Tokens in a second of speech, relative to a Latin script."""
    frame_samples: int = SAMPLES_PER_FRAME
    """Samples of one of the encoder's frames."""
    max_rows: int = 0
    """Most slots that are decoded at a time; 0 means all of them."""
    on_processor: bool = False
    """True if the engine computes on the processor: recordings then wait for live speech."""
    continues_clips: bool = False
    """True if only the new audio is encoded of a clip that continues the slot's clip: see Clip.continues."""


class Cores(enum.Enum):
    """Threads that one clip on a lane may use."""

    ALL = enum.auto()
    """All cores; there is no other work meanwhile."""
    ONE = enum.auto()
    SPARE = enum.auto()
    """One core, but only while no other thread wants it."""


MAX_BIASED_TOKENS = 512
"""Most tokens whose logits have a bias at one position."""
MAX_BIAS_LISTS = 128
"""Most different lists of biases in one pass; at least one for each token that a row is fed in it, and the empty list."""


@dataclass(frozen=True, eq=False)
class TokenBiases:
    """Numbers that are added to the logits of some tokens for one greedy choice."""

    tokens: np.ndarray
    """int64 (biased,): ascending, each once, MAX_BIASED_TOKENS at most."""
    values: np.ndarray
    """float32 (biased,)"""


CONTINUED = -1
"""A row's only token, which stands for the last token predicted by the slot's last pass. It need not have been read back yet."""


class Row(NamedTuple):
    """One row's share of a decode. Every pass makes these, and making a frozen dataclass takes four times as long."""

    slot: int
    tokens: tuple[int, ...]
    """New tokens to feed, at least one, or CONTINUED alone; they take positions past_length, past_length + 1, …"""
    past_length: int
    """Valid positions of the slot's self-attention cache; positions after them are overwritten."""
    end_bias: float = 0.0
    """Subtracted from the end token's logit at position 0."""
    biases: tuple[TokenBiases, ...] = ()
    """Biases for the choice after each of the tokens; empty means none. A row that feeds CONTINUED has none."""


class Prediction(NamedTuple):
    """Output of the decoder after each token that was fed."""

    tokens: np.ndarray
    """int64 (new,): the greedy next token after each position."""
    log_probs: np.ndarray
    """float32 (new,): its log-probability, without any bias."""


Answer = TypeVar("Answer")


class Pending(Protocol[Answer]):
    """Work of an engine in progress."""

    @property
    def ready(self) -> bool:
        """True if result() would return at once."""

    def result(self) -> list[Answer]:
        """Wait for the answers and return them in the order of the rows. Raises EngineError if the device has failed."""


class Encoding(Protocol):
    """A clip that is being encoded for its slot, on its own core."""

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back once when done, from any thread."""

    def finish(self) -> None:
        """Fill the slot, unless it was freed meanwhile. Called on the engine loop's thread. Raises the encoder's error."""


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """Work that is done."""

    answers: list[Answer]
    ready = True

    def result(self) -> list[Answer]:
        return self.answers


class Engine(Protocol):
    """A Moonshine model with `limits.max_batch` slots. A row's answers do not depend on the other rows of a call.

    Calls for a group of slots take effect in order; an engine on a device may return before the work is done.
    """

    limits: Limits
    name: str
    """Target and precision, for logs and metrics."""
    uncaptured_runs: int = 0
    """Passes without a captured CUDA graph; always 0 if the engine captures none."""
    captured_shapes: int = 0
    """Number of captured CUDA graphs."""
    capture_seconds: float = 0.0
    """Seconds spent capturing CUDA graphs."""
    bytes_in: int = 0
    """Bytes copied to the device so far; bytes_out: copied back. 0 without a device."""
    bytes_out: int = 0

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        """Fill each slot with the cross-attention keys and values of its clip; the slot's earlier contents are lost.

        With limits.continues_clips, a clip that continues the slot's clip costs only its new audio. The slot then holds the same,
        bit for bit, as a slot that received the whole clip at once.
        Raises ValueError for a slot or a clip outside the limits, EngineError if the device fails.
        """

    def begin_encode(self, slot: int, clip: Clip, cores: Cores) -> Encoding:
        """Start to encode one clip in parallel with all other work; only if limits.encode_lanes is not 0.

        Raises ValueError like encode().
        """

    def launch(self, rows: Sequence[Row]) -> Pending[Prediction]:
        """Feed each row's tokens to its slot, in one or more passes.

        The keys and values of all tokens fed are kept at their positions.
        Raises ValueError for a row outside the limits or of a slot that was never encoded.
        """

    def decode(self, rows: Sequence[Row]) -> list[Prediction]:
        """Call launch() and wait for the result."""
        return self.launch(rows).result()

    def align(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Pending[np.ndarray]:
        """Align the tokens of finished rows with their audio, by the decoder's own cross-attention.

        tokens: for each slot, at least one, without start and end token. The answers are float32 (tokens, frames): the share of
        each token's attention at each frame of the slot's clip (limits.frame_samples samples).
        Raises ValueError for tokens outside the limits or a slot that was never encoded.
        """

    def wait(self) -> None:
        """Wait until all work is done."""

    def rest(self, slot: int) -> None:
        """Report that the slot's request is answered: only its audio is still needed, for a clip that continues it."""

    def free(self, slot: int) -> None:
        """Free the slot: its contents are no longer needed."""

    def clear(self, slot: int) -> None:
        """Set the slot's contents to zero: masked values are still multiplied, and a NaN would reach the slot's next request."""

    def close(self) -> None:
        """Release what the engine holds. No other call may follow."""


def check_clip(limits: Limits, slot: int, clip: Clip) -> None:
    """Raises ValueError for a slot or a clip outside the limits."""
    if not 0 <= slot < limits.max_batch:
        raise ValueError(f"slot {slot} is outside 0..{limits.max_batch - 1}")
    if clip.sample_count > limits.max_samples:
        raise ValueError(f"a clip has {clip.sample_count} samples; the engine holds {limits.max_samples}")


def check_alignment(limits: Limits, slot: int, tokens: Sequence[int], holds_audio: bool) -> None:
    """Raises ValueError for tokens that cannot be aligned."""
    check_row(limits, Row(slot, tuple(tokens), past_length=1), holds_audio)


def check_row(limits: Limits, row: Row, holds_audio: bool) -> None:
    """Raises ValueError for a row outside the limits or of a slot that holds no audio."""
    if not 0 <= row.slot < limits.max_batch or not holds_audio:
        raise ValueError(f"slot {row.slot} holds no audio")
    if not row.tokens:
        raise ValueError(f"slot {row.slot}: no token to feed")
    if row.biases and len(row.biases) != len(row.tokens):
        raise ValueError(f"slot {row.slot}: {len(row.biases)} lists of biases for {len(row.tokens)} tokens")
    if row.past_length + len(row.tokens) > limits.max_positions:
        raise ValueError(
            f"slot {row.slot}: {len(row.tokens)} tokens at {row.past_length} end past position {limits.max_positions}"
        )
