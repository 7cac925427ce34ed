"""The shapes that device engines are compiled and captured for: a call runs in the smallest one that holds it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, STREAMING_FRAME_SAMPLES, count_frames

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST_ENCODER_ROWS = 64  # more rows would only take longer: the device is full with this many
ENCODER_SECONDS = (2.0, 5.0, 10.0, 13.0, 20.0, 29.0)  # 13: the longest segment of the default settings, with its pauses
# A step, the tail of a corrected draft, whole drafts (25 tokens on average); longer blocks take several passes.
NEW_TOKENS = (1, 8, 16, 32, 64)
PLAN_NEW_TOKENS = (1, 8, 64)  # for TensorRT, where every shape costs compile time and space in the plan

SHORTEST_PACKED_FRAMES = 80
PACKED_SECONDS = 480.0  # of all rows of a pass together
PACKED_STEP_SAMPLES = 8 * SAMPLES_PER_FRAME

STEP_FRAMES = (5, 13, 25, 50)  # new frames of a stream: 100 ms, about a quarter, a half, a whole second

FRAME_BLOCK = 8  # caches of audio frames have a multiple of it, so that every layer's cache is aligned as TensorRT needs


@dataclass(frozen=True)
class Shape:
    """One shape of one component."""

    component: Literal["encoder", "packed encoder", "stream encoder", "decoder"]
    batch: int
    length: int
    """Samples of an encoder's row, of all rows together in the packed encoder, or new tokens of a decoder's row."""


def shapes_up_to(max_batch: int, max_samples: int, max_new: int, counts: Sequence[int] = NEW_TOKENS) -> list[Shape]:
    """Return every shape for batches up to max_batch, clips up to max_samples and blocks up to max_new tokens, smallest first."""
    samples = sorted({min(int(seconds * SAMPLE_RATE), max_samples) for seconds in ENCODER_SECONDS})
    new_tokens = sorted({min(count, max_new) for count in counts})
    encoder = [
        Shape("encoder", batch, length) for batch in batches_up_to(min(max_batch, MOST_ENCODER_ROWS)) for length in samples
    ]
    return encoder + [Shape("decoder", batch, length) for batch in batches_up_to(max_batch) for length in new_tokens]


def packed_shapes(max_batch: int, max_samples: int) -> list[Shape]:
    """Return the shapes of an encoder whose rows follow one another, each shape a quarter longer than the one before.

    All have MOST_ENCODER_ROWS rows: an idle row costs nothing.
    """
    rows = min(max_batch, MOST_ENCODER_ROWS)
    longest = max(max_samples, min(rows * max_samples, int(PACKED_SECONDS * SAMPLE_RATE)))
    lengths = [SHORTEST_PACKED_FRAMES * SAMPLES_PER_FRAME]
    while lengths[-1] < longest + rows * SAMPLES_PER_FRAME:  # each row begins at a whole frame
        lengths.append(-(-lengths[-1] * 5 // 4 // PACKED_STEP_SAMPLES) * PACKED_STEP_SAMPLES)
    return [Shape("packed encoder", MOST_ENCODER_ROWS, length) for length in lengths]


def stream_shapes(max_batch: int) -> list[Shape]:
    """Return the shapes of a streaming model's encoder, whose rows are new audio."""
    batches = batches_up_to(min(max_batch, MOST_ENCODER_ROWS))
    return [Shape("stream encoder", batch, frames * STREAMING_FRAME_SAMPLES) for batch in batches for frames in STEP_FRAMES]


def batches_up_to(most: int) -> list[int]:
    return [batch for batch in BATCHES if batch < most] + [most]


def shapes_within(shapes: Sequence[Shape], max_batch: int, max_seconds: float | None) -> list[Shape]:
    """Return the shapes that an engine for max_batch streams and clips of max_seconds (default: any) may run in.

    Raises ValueError if no shape holds max_batch; if max_seconds is longer than every shape, the longest shape is used.
    """
    batch = smallest(sorted({shape.batch for shape in shapes}), max_batch)
    lengths = sorted({shape.length for shape in shapes if shape.component == "encoder"})
    samples = lengths[-1] if max_seconds is None else smallest(lengths, min(int(max_seconds * SAMPLE_RATE), lengths[-1]))
    return [shape for shape in shapes if shape.batch <= batch and (shape.component == "decoder" or shape.length <= samples)]


def streaming_frames(samples: int) -> int:
    """Return the number of a streaming model's frames in a cache for clips of this many samples."""
    return -(-samples // STREAMING_FRAME_SAMPLES) + 1


def padded_frames(samples: int) -> int:
    """Return the number of frames in a cache for clips of this many samples."""
    return -(-count_frames(samples) // FRAME_BLOCK) * FRAME_BLOCK


def smallest(sizes: Sequence[int], wanted: int) -> int:
    """Return the smallest of the ascending sizes that holds `wanted`. Raises ValueError if none does."""
    for size in sizes:
        if size >= wanted:
            return size
    raise ValueError(f"{wanted} is over every size there is: {', '.join(map(str, sizes))}")


def cheapest_runs(
    lengths: Sequence[int], batches: Sequence[int], earliest: Iterable[Sequence[int]], pass_cost: float
) -> list[tuple[int, int]]:
    """Split rows, sorted by length, into the runs whose passes cost least together; returns each run's first row and end.

    lengths: for each row, the length of the shape that holds it, ascending. batches: available batches, ascending. earliest: for
    each number of rows and each batch, the first row that can be in a run that ends there. A pass costs its batch times its
    length, plus pass_cost. Uses dynamic programming: covering fewer rows never costs more, so of the runs in one batch only the
    longest is considered.
    """
    best, begins = [0.0], [0]  # for each number of rows: the least cost, and the first row of the last run
    for end, (length, firsts) in enumerate(zip(lengths, earliest, strict=True), 1):
        least, begin = min(
            (best[first] + batch * length, first) for batch, first in zip(batches, firsts, strict=True) if first < end
        )
        best.append(least + pass_cost)
        begins.append(begin)
    runs, end = [], len(lengths)
    while end:
        runs.append((begins[end], end))
        end = begins[end]
    return runs[::-1]


def within_counts(rows: int, batches: Sequence[int]) -> Iterator[list[int]]:
    """Return `earliest` for cheapest_runs() if a batch holds that many rows."""
    return ([max(0, end - batch) for batch in batches] for end in range(1, rows + 1))


def within_slots(slots: Iterable[int], batches: Sequence[int]) -> Iterator[list[int]]:
    """Yield `earliest` for cheapest_runs() if a batch holds the rows of the slots below it."""
    firsts = [0] * len(batches)
    for end, slot in enumerate(slots, 1):
        for index, batch in enumerate(batches):
            if slot < batch:
                break
            firsts[index] = end
        yield firsts
