"""Host memory for copies to and from a device: the layout of its blocks, and the rings that reuse them.

All inputs of a pass lie in one block, so that one copy moves them; all its outputs lie in another.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.engine.shapes import Shape

ALIGNMENT = 256  # bytes, of every array in a block: TensorRT requires it of its inputs


class Event(Protocol):
    """A point in the device's work."""

    @property
    def is_done(self) -> bool: ...

    def sync(self) -> None:
        """Wait for it. Raises the device's error if it failed."""


class Done:
    """The event of a device that finishes its work within each call."""

    is_done = True

    def sync(self) -> None:
        pass


@dataclass(frozen=True)
class Field:
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @functools.cached_property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Layout:
    """Named arrays in one block of memory."""

    def __init__(self, **arrays: tuple[type, tuple[int, ...]]):
        """arrays: dtype and shape of each, in order."""
        self.fields: dict[str, Field] = {}
        self.bytes = 0
        for name, (dtype, shape) in arrays.items():
            field = Field(-(-self.bytes // ALIGNMENT) * ALIGNMENT, np.dtype(dtype), shape)
            self.fields[name] = field
            self.bytes = field.offset + field.bytes

    def views(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of a block that begins at the start of `memory` (uint8)."""
        return {
            name: memory[field.offset : field.offset + field.bytes].view(field.dtype).reshape(field.shape)
            for name, field in self.fields.items()
        }


@functools.cache
def request_layout(shape: Shape) -> Layout:
    """Return the layout of a pass's inputs. In the decoder, a row's index is its slot; in the encoder, `slots` gives the slot.

    Encoder: pcm int16 (batch, samples); lengths int64 (batch,), valid samples, 0 for an idle row; positions int64 (batch,) of the
    first samples within their streams' dither; slots int64 (batch,), -1 for an idle row.
    Packed encoder: the same with pcm int16 (samples,), each row from a whole frame on; starts int32 (batch + 1,), the first frame
    of each row, and the one after the last; offsets and gains float32 (batch,): pcm is unchanged, see Clip.offset.
    Stream encoder: audio float32 (batch, samples), zeros after a row's own; counts int64 (batch,), new frames of each row, 0 for
    an idle row; before int64 (batch,), earlier frames of its stream; slots int64 (batch,), -1 for an idle row.
    Decoder: tokens int64 (batch, new), CONTINUED for the one the slot's last pass predicted; past_lengths int64 (batch,); counts
    int64 (batch,), valid tokens of the row, 0 for an idle row; end_bias float32 (batch,); bias_lists int64 (batch, new), the
    number of the list of biases for the choice after each token, 0 for none.
    """
    batch, length = shape.batch, shape.length
    per_row = (np.int64, (batch,))
    if shape.component == "packed encoder":
        starts, loudness = (np.int32, (batch + 1,)), (np.float32, (batch,))
        return Layout(
            lengths=per_row,
            positions=per_row,
            slots=per_row,
            starts=starts,
            offsets=loudness,
            gains=loudness,
            pcm=(np.int16, (length,)),
        )
    if shape.component == "stream encoder":
        return Layout(counts=per_row, before=per_row, slots=per_row, audio=(np.float32, (batch, length)))
    if shape.component == "encoder":
        return Layout(lengths=per_row, positions=per_row, slots=per_row, pcm=(np.int16, (batch, length)))
    per_token = (np.int64, (batch, length))
    return Layout(past_lengths=per_row, counts=per_row, end_bias=(np.float32, (batch,)), tokens=per_token, bias_lists=per_token)


@functools.cache
def answer_layout(shape: Shape) -> Layout:
    """Return the layout of a decoder pass's outputs: tokens int64 (batch, new), log_probs float32 (batch, new)."""
    rows = (shape.batch, shape.length)
    return Layout(tokens=(np.int64, rows), log_probs=(np.float32, rows))


@dataclass
class Place:
    """One block of a ring, and the conditions for its reuse."""

    memory: np.ndarray
    event: Event | None = None
    give_up: Callable[[], object] | None = None
    """Called before the memory is used again, to copy out an answer that still lies in it."""


class Ring:
    """Blocks handed out in turn. Allocated once; one is handed out again only when the device is done with it."""

    def __init__(self, places: int, allocate: Callable[[], np.ndarray]):
        self._places = [Place(allocate()) for _ in range(places)]
        self._next = 0

    def take(self) -> Place:
        place = self._places[self._next]
        self._next = (self._next + 1) % len(self._places)
        if place.event is not None:
            place.event.sync()
        if place.give_up is not None:
            place.give_up()
        place.event = place.give_up = None
        return place
