"""The shapes that device engines are compiled and captured for: a call runs in the smallest one that holds it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from runtime.audio import SAMPLE_RATE, count_frames

BATCHES = (1, 2, 4, 8, 16, 32)
ENCODER_SECONDS = (2.0, 5.0, 10.0, 13.0, 20.0, 29.0)  # 13: the longest segment of the default settings, with its pauses
NEW_TOKENS = (1, 8, 64)  # a step, a corrected draft's tail, a whole draft; longer blocks take several passes

FRAME_BLOCK = 8  # caches of audio frames are a multiple of it long, so that every layer's begins where TensorRT wants it

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shape:
    """One shape of one component."""

    component: Literal["encoder", "decoder"]
    batch: int
    length: int
    """Of the encoder: samples of a row. Of the decoder: new tokens of a row."""


def shapes_up_to(max_batch: int, max_samples: int, max_new: int) -> list[Shape]:
    """Every shape for batches up to max_batch, clips up to max_samples and blocks up to max_new tokens, smallest first."""
    batches = [batch for batch in BATCHES if batch < max_batch] + [max_batch]
    samples = sorted({min(int(seconds * SAMPLE_RATE), max_samples) for seconds in ENCODER_SECONDS})
    new_tokens = sorted({min(count, max_new) for count in NEW_TOKENS})
    encoder = [Shape("encoder", batch, length) for batch in batches for length in samples]
    return encoder + [Shape("decoder", batch, length) for batch in batches for length in new_tokens]


def shapes_within(shapes: Sequence[Shape], max_batch: int, max_seconds: float | None) -> list[Shape]:
    """Those of the shapes that an engine for so many streams, and for clips of so many seconds (default: any), may run in.

    Raises ValueError where none holds max_batch; a longer max_seconds than there is a shape for takes the longest.
    """
    batch = smallest(sorted({shape.batch for shape in shapes}), max_batch)
    lengths = sorted({shape.length for shape in shapes if shape.component == "encoder"})
    samples = lengths[-1] if max_seconds is None else smallest(lengths, min(int(max_seconds * SAMPLE_RATE), lengths[-1]))
    return [shape for shape in shapes if shape.batch <= batch and (shape.component == "decoder" or shape.length <= samples)]


def padded_frames(samples: int) -> int:
    """Frames that a cache for clips of so many samples has."""
    return -(-count_frames(samples) // FRAME_BLOCK) * FRAME_BLOCK


def smallest(sizes: Sequence[int], wanted: int) -> int:
    """The smallest of the ascending sizes that holds `wanted`. Raises ValueError when none does."""
    for size in sizes:
        if size >= wanted:
            return size
    raise ValueError(f"{wanted} is over every size there is: {', '.join(map(str, sizes))}")


def cheapest_groups(items: Iterable[Item], cost: Callable[[Sequence[Item]], float]) -> list[list[Item]]:
    """Split items, in their order, into runs whose costs add up to the least; by dynamic programming."""
    items = list(items)
    best: list[tuple[float, int]] = [(0.0, 0)]  # for each count of items: least cost, and where its last group begins
    for end in range(1, len(items) + 1):
        best.append(min((best[start][0] + cost(items[start:end]), start) for start in range(end)))
    groups, end = [], len(items)
    while end:
        start = best[end][1]
        groups.append(items[start:end])
        end = start
    return groups[::-1]
