"""The host's half of an engine on a device: chooses the shape of each pass, sends requests and receives answers.

The device keeps the slots (TensorRT: tensorrt_engine.py; torch: torch_engine.py). Only token ids and their log-probabilities are
copied to the host, and for an aligned row its attention. A token can be fed again before it is copied.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from runtime.audio import DITHER_PERIOD_SAMPLES, MIN_SAMPLES, SAMPLE_RATE, SAMPLES_PER_FRAME, Clip, count_frames
from runtime.engine.cuda_graphs import CapturedShapes
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Engine, Limits, Pending, Prediction, Row, check_alignment, check_clip, check_row
from runtime.engine.shapes import Shape, cheapest_runs, smallest, within_counts, within_slots
from runtime.engine.staging import ALIGNMENT, Done, Event, Ring, answer_layout, request_layout
from runtime.engine.token_biases import TABLE_LAYOUT, BiasLists, within_lists

# Cost of a pass beyond its rows. Estimates, not measured on a GPU yet: they only decide how rows are grouped.
ENCODE_PASS_SAMPLES = 10 * SAMPLE_RATE
DECODE_PASS_TOKENS = 64

BiasTable = tuple[np.ndarray, np.ndarray]
"""Tokens and their biases, int64 and float32 (lists, MAX_BIASED_TOKENS), of the lists of a pass, number 0 left out."""

EncodeRow = tuple[int, Clip]
"""A slot and the clip for it."""

SILENCE = np.zeros(SAMPLE_RATE, np.int16)
ENCODE_PLACES = 2  # one is copied to the device while the other is filled
DECODE_PLACES = 16  # passes in progress; a launch takes one or two


class Device(Protocol):
    """Slots on a device and the shapes that work on them. Calls take effect in order."""

    @property
    def shapes(self) -> Sequence[Shape]:
        """The shapes that the engine can run."""

    captured: CapturedShapes

    max_samples: int
    """Longest clip of a slot."""

    def host_memory(self, size: int) -> np.ndarray:
        """Allocate uint8 (size,) of the memory that the device copies fastest."""

    def encode(self, shape: Shape, request: np.ndarray) -> Event:
        """Copy the request in (staging.request_layout) and fill the slots. The event is done once `request` may change."""

    def decode(self, shape: Shape, request: np.ndarray, answer: np.ndarray, lists: BiasTable) -> Event:
        """Copy the request and lists of biases in, run, and copy the answer out (staging.answer_layout). The event is done once
        the answer is there. lists: the lists that the request names, without number 0."""

    def clear(self, slot: int) -> None:
        """Zero the slot's keys and values after all earlier work."""

    def align(self, slots: Sequence[int], frames: Sequence[int], tokens: np.ndarray) -> tuple[Event, np.ndarray]:
        """Align tokens with the slots' audio. frames: frames of each slot's clip; tokens: int64 (slots, new), the start token and
        the row's tokens, with any padding. The answer is there once the event is done: float32 (slots, new, frames of the cache),
        the share of each token's attention at each frame."""

    def close(self) -> None:
        """Release the device's memory."""


@dataclass
class Pass:
    """One run of the decoder and the rows in it."""

    event: Event
    rows: list[tuple[int, int]]
    """Index in the launch, and number of tokens fed in this pass, for each row."""
    answer: dict[str, np.ndarray]
    _read: dict[str, np.ndarray] | None = None

    def read(self) -> dict[str, np.ndarray]:
        """Wait for the answer and copy it out of its place."""
        if self._read is None:
            self.event.sync()
            self._read = {name: array.copy() for name, array in self.answer.items()}
        return self._read


@dataclass
class Launch:
    """See runtime.engine.protocol.Pending."""

    rows: Sequence[Row]
    passes: list[Pass] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return self.passes[-1].event.is_done

    def result(self) -> list[Prediction]:
        parts: list[list[Prediction]] = [[] for _ in self.rows]
        for each in self.passes:
            answer = each.read()
            for index, count in each.rows:
                slot = self.rows[index].slot
                parts[index].append(Prediction(answer["tokens"][slot, :count], answer["log_probs"][slot, :count]))
        return [join(predictions) for predictions in parts]


@dataclass
class Alignment:
    """See runtime.engine.protocol.Pending."""

    event: Event
    shares: np.ndarray
    sizes: list[tuple[int, int]]
    """Number of tokens, and of frames of the clip, for each row."""

    @property
    def ready(self) -> bool:
        return self.event.is_done

    def result(self) -> list[np.ndarray]:
        self.event.sync()
        return [share[1 : 1 + tokens, :frames].copy() for share, (tokens, frames) in zip(self.shares, self.sizes, strict=True)]


class DeviceEngine(Engine):
    """See runtime.engine.protocol.Engine."""

    def __init__(self, device: Device, manifest: Manifest, max_batch: int):
        self.name = f"{manifest.target} {manifest.precision}"
        self._device = device
        encoder = [shape for shape in device.shapes if shape.component != "decoder"]
        decoder = [shape for shape in device.shapes if shape.component == "decoder"]
        self._packs = encoder[0].component == "packed encoder"
        self._encoder_batches, self._samples = sizes_of(encoder)
        self._batches, self._new = sizes_of(decoder)
        self.limits = self._limits_of(manifest, max_batch)
        self._frames = [0] * max_batch  # of each slot's clip; 0 where the slot is free
        self._last: Event = Done()  # of the latest work
        largest_encoder = max(request_layout(shape).bytes for shape in encoder)
        largest = Shape("decoder", self._batches[-1], self._new[-1])
        largest_request, largest_answer = request_layout(largest).bytes, answer_layout(largest).bytes
        self._answer_offset = largest_request
        self._table_offset = -(-(largest_request + largest_answer) // ALIGNMENT) * ALIGNMENT
        self._encode_ring = Ring(ENCODE_PLACES, lambda: device.host_memory(largest_encoder))
        self._decode_ring = Ring(DECODE_PLACES, lambda: device.host_memory(self._table_offset + TABLE_LAYOUT.bytes))

    def _limits_of(self, manifest: Manifest, max_batch: int) -> Limits:
        return Limits(
            max_batch=max_batch,
            max_samples=self._device.max_samples,
            max_positions=manifest.max_positions,
            encode_rows=min(max_batch, self._encoder_batches[-1]),
            start_token=manifest.start_token,
            end_token=manifest.end_token,
            token_scale=manifest.token_scale,
        )

    @property
    def uncaptured_runs(self) -> int:
        return self._device.captured.uncaptured_runs

    @property
    def captured_shapes(self) -> int:
        return self._device.captured.count

    @property
    def capture_seconds(self) -> float:
        return self._device.captured.capture_seconds

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        rows = list(zip(slots, clips, strict=True))
        for slot, clip in rows:
            check_clip(self.limits, slot, clip)
        for group, shape in (self._pack if self._packs else self._pad)(rows):
            self._encode_together(group, shape)

    def _pack(self, rows: Sequence[EncodeRow]) -> Iterator[tuple[Sequence[EncodeRow], Shape]]:
        """Yield groups of consecutive rows, as many as a pass takes, each with its shape."""
        most_rows, most_samples = self._encoder_batches[-1], self._samples[-1]
        first, samples = 0, 0
        for index, (_, clip) in enumerate(rows):
            needed = whole_frames(clip) * SAMPLES_PER_FRAME
            if index - first == most_rows or samples + needed > most_samples:
                yield rows[first:index], Shape("packed encoder", most_rows, smallest(self._samples, samples))
                first, samples = index, 0
            samples += needed
        yield rows[first:], Shape("packed encoder", most_rows, smallest(self._samples, samples))

    def _pad(self, rows: Sequence[EncodeRow]) -> Iterator[tuple[Sequence[EncodeRow], Shape]]:
        """Yield groups of rows of similar length, each with its shape."""
        rows = sorted(rows, key=lambda row: row[1].sample_count)
        lengths = [smallest(self._samples, clip_samples(clip)) for _, clip in rows]
        batches = self._encoder_batches
        for first, end in cheapest_runs(lengths, batches, within_counts(len(rows), batches), ENCODE_PASS_SAMPLES):
            yield rows[first:end], Shape("encoder", smallest(batches, end - first), lengths[end - 1])

    def _encode_together(self, rows: Sequence[EncodeRow], shape: Shape) -> None:
        layout, place = request_layout(shape), self._encode_ring.take()
        request = layout.views(place.memory)
        count, lengths = len(rows), [clip_samples(clip) for _, clip in rows]
        request["lengths"][:count], request["lengths"][count:] = lengths, 0
        request["positions"][:count] = [clip.dither_position % DITHER_PERIOD_SAMPLES for _, clip in rows]
        request["positions"][count:] = 0
        request["slots"][:count], request["slots"][count:] = [slot for slot, _ in rows], -1
        (fill_packed if self._packs else fill_padded)(request, [clip for _, clip in rows], lengths)
        for (slot, _), length in zip(rows, lengths, strict=True):
            self._frames[slot] = count_frames(length)
        place.event = self._last = self._device.encode(shape, place.memory[: layout.bytes])
        self.bytes_in += layout.bytes

    def launch(self, rows: Sequence[Row]) -> Pending[Prediction]:
        for row in rows:
            check_row(self.limits, row, self._holds_audio(row.slot))
        launch = Launch(rows)
        for group in self._group(rows):
            longest = max(len(rows[index].tokens) for index in group)
            for first in range(0, longest, self._new[-1]):
                still_fed = [index for index in group if len(rows[index].tokens) > first]
                for part in within_lists(rows, still_fed):
                    self._launch_pass(launch, part, first)
        return launch

    def _group(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return groups of rows that run together, by index."""
        counts = [len(row.tokens) for row in rows]
        order = sorted(range(len(rows)), key=counts.__getitem__)
        if counts[order[0]] == counts[order[-1]]:  # single steps: there is nothing to decide, and no time for it
            return [order]
        lengths = [smallest(self._new, min(counts[index], self._new[-1])) for index in order]
        earliest = within_slots((rows[index].slot for index in order), self._batches)
        return [order[first:end] for first, end in cheapest_runs(lengths, self._batches, earliest, DECODE_PASS_TOKENS)]

    def _decode_shape(self, rows: Sequence[Row], first: int = 0) -> Shape:
        """Return the shape for these rows. Slots are rows: the batch reaches to the highest slot."""
        longest = min(self._new[-1], max(len(row.tokens) for row in rows) - first)
        return Shape("decoder", smallest(self._batches, max(row.slot for row in rows) + 1), smallest(self._new, longest))

    def _launch_pass(self, launch: Launch, indices: list[int], first: int) -> None:
        """Feed the tokens of these rows of the launch from index `first` on, as many as the shape holds."""
        rows = [launch.rows[index] for index in indices]
        shape = self._decode_shape(rows, first)
        request_size, answer_size = request_layout(shape), answer_layout(shape)
        place = self._decode_ring.take()
        request = request_size.views(place.memory)
        fed = [row.tokens[first : first + shape.length] for row in rows]
        lists = fill_request(request, rows, fed, first, self.limits.start_token)
        answer = place.memory[self._answer_offset : self._answer_offset + answer_size.bytes]
        table = self._table_of(lists, place.memory)
        place.event = self._last = self._device.decode(shape, place.memory[: request_size.bytes], answer, table)
        self.bytes_in += request_size.bytes + sum(each.nbytes for each in table)
        self.bytes_out += answer_size.bytes
        counts = zip(indices, map(len, fed), strict=True)
        launch.passes.append(Pass(place.event, list(counts), answer_size.views(answer)))
        place.give_up = launch.passes[-1].read

    def _table_of(self, lists: BiasLists, memory: np.ndarray) -> BiasTable:
        """Write the lists into a place's memory."""
        table = TABLE_LAYOUT.views(memory[self._table_offset :])
        tokens, values = (table[name][: len(lists.lists)] for name in ("tokens", "values"))
        if not lists.are_empty:
            lists.fill(tokens, values)
        return tokens[1:], values[1:]

    def align(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Pending[np.ndarray]:
        for slot, said in zip(slots, tokens, strict=True):
            check_alignment(self.limits, slot, said, self._holds_audio(slot))
        fed = np.full((len(slots), 1 + max(map(len, tokens))), self.limits.start_token, np.int64)
        for row, said in zip(fed, tokens, strict=True):
            row[1 : 1 + len(said)] = said
        frames = [self._frames[slot] for slot in slots]
        event, shares = self._device.align(slots, frames, fed)
        self._last = event
        self.bytes_out += shares.nbytes
        return Alignment(event, shares, list(zip(map(len, tokens), frames, strict=True)))

    def _holds_audio(self, slot: int) -> bool:
        return 0 <= slot < len(self._frames) and self._frames[slot] > 0

    def wait(self) -> None:
        self._last.sync()

    def free(self, slot: int) -> None:
        self._frames[slot] = 0

    def clear(self, slot: int) -> None:
        self._device.clear(slot)

    def close(self) -> None:
        self._device.close()


def clip_samples(clip: Clip) -> int:
    """Number of samples of the slot's clip that the model receives; a short clip ends in dither."""
    return max(clip.sample_count, MIN_SAMPLES)


def whole_frames(clip: Clip) -> int:
    return -(-clip_samples(clip) // SAMPLES_PER_FRAME)


def fill_padded(request: dict[str, np.ndarray], clips: Sequence[Clip], lengths: Sequence[int]) -> None:
    """Write each clip at the beginning of its row. A short clip has fewer samples than its length; zeros follow it."""
    for index, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        request["pcm"][index, : len(clip.samples)] = clip.samples
        request["pcm"][index, len(clip.samples) : length] = 0


def fill_packed(request: dict[str, np.ndarray], clips: Sequence[Clip], lengths: Sequence[int]) -> None:
    """Write each clip from the next whole frame on, unchanged: the device amplifies it. Silence has the value of the offset."""
    count = len(clips)
    request["offsets"][:count] = [clip.offset for clip in clips]
    request["gains"][:count] = [clip.gain if clip.ranges is not None else 1.0 for clip in clips]
    frames = [-(-length // SAMPLES_PER_FRAME) for length in lengths]
    request["starts"][: count + 1] = [0, *itertools.accumulate(frames)]
    request["starts"][count + 1 :] = sum(frames)
    parts: list[np.ndarray] = []
    for clip, whole in zip(clips, frames, strict=True):
        behind = whole * SAMPLES_PER_FRAME - clip.sample_count + clip.quiet_behind
        parts += [quiet(clip, clip.quiet_before), *clip.pieces, quiet(clip, behind)]
    # One call only: each call releases the GIL, and then waits for the thread that took it.
    np.concatenate(parts, out=request["pcm"][: sum(map(len, parts))])


def fill_request(
    request: dict[str, np.ndarray], rows: Sequence[Row], fed: Sequence[Sequence[int]], first: int, filler: int
) -> BiasLists:
    """Write the tokens that are fed to these rows, whose first index is `first`; all else is zero, or the filler token.

    Returns the lists of biases that the request names.
    """
    request["counts"][:], request["past_lengths"][:], request["end_bias"][:] = 0, 0, 0.0
    request["tokens"][:], request["bias_lists"][:] = filler, 0
    slots, lists = np.array([row.slot for row in rows]), BiasLists()  # all rows together: one by one takes three times as long
    request["counts"][slots] = list(map(len, fed))
    request["past_lengths"][slots] = [row.past_length + first for row in rows]
    request["end_bias"][slots] = [row.end_bias for row in rows]
    if request["tokens"].shape[1] == 1:
        request["tokens"][slots, 0] = [token for (token,) in fed]
    else:
        for slot, tokens in zip(slots, fed, strict=True):
            request["tokens"][slot, : len(tokens)] = tokens
    for row, tokens in zip(rows, fed, strict=True):
        if row.biases:
            request["bias_lists"][row.slot, : len(tokens)] = lists.numbers_of(row.biases[first : first + len(tokens)])
    return lists


def quiet(clip: Clip, count: int) -> np.ndarray:
    return SILENCE[:count] if clip.offset == 0 and count <= len(SILENCE) else np.full(count, clip.offset, np.int16)


def sizes_of(shapes: Sequence[Shape]) -> tuple[list[int], list[int]]:
    """Return the batches and the lengths, ascending."""
    return sorted({shape.batch for shape in shapes}), sorted({shape.length for shape in shapes})


def join(predictions: Sequence[Prediction]) -> Prediction:
    if len(predictions) == 1:
        return predictions[0]
    return Prediction(
        np.concatenate([each.tokens for each in predictions]), np.concatenate([each.log_probs for each in predictions])
    )
