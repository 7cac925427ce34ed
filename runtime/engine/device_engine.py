"""The host's half of an engine on a device: which shape serves a call, what is handed over, and what comes back when.

The device keeps the slots (TensorRT: tensorrt_engine.py; torch: torch_engine.py). Of the results only token ids
and their log-probabilities come to the host, and a token that is fed again need not come at all; where a row is aligned, its
attention does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from runtime.audio import DITHER_PERIOD_SAMPLES, MIN_SAMPLES, SAMPLE_RATE, Clip, count_frames
from runtime.engine.cuda_graphs import CapturedShapes
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Engine, Limits, Pending, Prediction, Row, check_alignment, check_clip, check_row
from runtime.engine.shapes import Shape, cheapest_runs, smallest, within_counts, within_slots
from runtime.engine.staging import Done, Event, Ring, answer_layout, request_layout

# What a pass costs beyond its rows. Estimates: they only decide how rows are grouped, and wait for a GPU to be measured on.
ENCODE_PASS_SAMPLES = 10 * SAMPLE_RATE
DECODE_PASS_TOKENS = 64

ENCODE_PLACES = 2  # one being copied from, one being filled
DECODE_PLACES = 16  # passes on their way; a launch takes one or two


class Device(Protocol):
    """Slots on a device and the shapes that work on them. Everything asked of it happens in order."""

    @property
    def shapes(self) -> Sequence[Shape]:
        """What it can run."""

    captured: CapturedShapes

    def host_memory(self, size: int) -> np.ndarray:
        """uint8 (size,), where the device copies fastest from and to."""

    def encode(self, shape: Shape, request: np.ndarray) -> Event:
        """Copy the request in (staging.request_layout), fill the slots; the event is past once `request` may change."""

    def decode(self, shape: Shape, request: np.ndarray, answer: np.ndarray) -> Event:
        """Copy the request in, run, copy the answer out (staging.answer_layout); the event is past once it is there."""

    def align(self, slot: int, frames: int, tokens: np.ndarray) -> np.ndarray:
        """frames: of the slot's clip; tokens: int64 (new,), the start token and a row's. Waits for the answer: float32
        (new, frames of the cache), how each token's attention was shared out."""

    def close(self) -> None:
        """Release the device's memory."""


@dataclass
class Pass:
    """One run of the decoder and the rows in it."""

    event: Event
    rows: list[tuple[int, int]]
    """For each row: its index in the launch, and how many of its tokens this pass feeds."""
    answer: dict[str, np.ndarray]
    _read: dict[str, np.ndarray] | None = None

    def read(self) -> dict[str, np.ndarray]:
        """The answer, copied out of its place once it is there."""
        if self._read is None:
            self.event.sync()
            self._read = {name: array.copy() for name, array in self.answer.items()}
        return self._read


@dataclass
class Launch:
    """See runtime.engine.Pending."""

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


class DeviceEngine(Engine):
    """See runtime.engine.Engine."""

    def __init__(self, device: Device, manifest: Manifest, max_batch: int):
        self.name = f"{manifest.target} {manifest.precision}"
        self._device = device
        encoder = [shape for shape in device.shapes if shape.component == "encoder"]
        decoder = [shape for shape in device.shapes if shape.component == "decoder"]
        self._encoder_batches, self._samples = sizes_of(encoder)
        self._batches, self._new = sizes_of(decoder)
        self.limits = Limits(
            max_batch=max_batch,
            max_samples=self._samples[-1],
            max_positions=manifest.max_positions,
            encode_rows=min(max_batch, self._encoder_batches[-1]),
            start_token=manifest.start_token,
            end_token=manifest.end_token,
        )
        self._frames = [0] * max_batch  # of each slot's clip; 0 where the slot is free
        self._last: Event = Done()  # of everything asked for
        largest_encoder = request_layout(Shape("encoder", self._encoder_batches[-1], self._samples[-1])).bytes
        largest = Shape("decoder", self._batches[-1], self._new[-1])
        largest_request, largest_answer = request_layout(largest).bytes, answer_layout(largest).bytes
        self._answer_offset = largest_request
        self._encode_ring = Ring(ENCODE_PLACES, lambda: device.host_memory(largest_encoder))
        self._decode_ring = Ring(DECODE_PLACES, lambda: device.host_memory(largest_request + largest_answer))

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
        rows.sort(key=lambda row: len(row[1].samples))
        lengths = [self._encode_length(clip) for _, clip in rows]
        batches = self._encoder_batches
        for first, end in cheapest_runs(lengths, batches, within_counts(len(rows), batches), ENCODE_PASS_SAMPLES):
            self._encode_together(rows[first:end], Shape("encoder", smallest(batches, end - first), lengths[end - 1]))

    def _encode_length(self, clip: Clip) -> int:
        return smallest(self._samples, max(len(clip.samples), MIN_SAMPLES))

    def _encode_together(self, rows: Sequence[tuple[int, Clip]], shape: Shape) -> None:
        layout, place = request_layout(shape), self._encode_ring.take()
        request = layout.views(place.memory)
        request["lengths"][:], request["positions"][:], request["slots"][:] = 0, 0, -1
        for index, (slot, clip) in enumerate(rows):
            count = len(clip.samples)
            request["lengths"][index] = max(count, MIN_SAMPLES)  # a short clip ends in dither alone
            request["positions"][index] = clip.dither_position % DITHER_PERIOD_SAMPLES
            request["slots"][index] = slot
            request["pcm"][index, :count] = clip.samples
            request["pcm"][index, count:MIN_SAMPLES] = 0
            self._frames[slot] = count_frames(int(request["lengths"][index]))
        place.event = self._last = self._device.encode(shape, place.memory[: layout.bytes])
        self.bytes_in += layout.bytes

    def launch(self, rows: Sequence[Row]) -> Pending:
        for row in rows:
            check_row(self.limits, row, self._holds_audio(row.slot))
        launch = Launch(rows)
        for group in self._group(rows):
            longest = max(len(rows[index].tokens) for index in group)
            for first in range(0, longest, self._new[-1]):
                self._launch_pass(launch, [index for index in group if len(rows[index].tokens) > first], first)
        return launch

    def _group(self, rows: Sequence[Row]) -> list[list[int]]:
        """Which rows go together, by their indices."""
        counts = [len(row.tokens) for row in rows]
        order = sorted(range(len(rows)), key=counts.__getitem__)
        if counts[order[0]] == counts[order[-1]]:  # single steps: nothing to weigh, and no time to do it in
            return [order]
        lengths = [smallest(self._new, min(counts[index], self._new[-1])) for index in order]
        earliest = within_slots((rows[index].slot for index in order), self._batches)
        return [order[first:end] for first, end in cheapest_runs(lengths, self._batches, earliest, DECODE_PASS_TOKENS)]

    def _decode_shape(self, rows: Sequence[Row], first: int = 0) -> Shape:
        """Slots are rows: the batch reaches to the highest slot."""
        longest = min(self._new[-1], max(len(row.tokens) for row in rows) - first)
        return Shape("decoder", smallest(self._batches, max(row.slot for row in rows) + 1), smallest(self._new, longest))

    def _launch_pass(self, launch: Launch, indices: list[int], first: int) -> None:
        """Feed the tokens from number `first` on of these rows of the launch, as many as the shape holds."""
        shape = self._decode_shape([launch.rows[index] for index in indices], first)
        request_size, answer_size = request_layout(shape), answer_layout(shape)
        place = self._decode_ring.take()
        request = request_size.views(place.memory)
        request["counts"][:], request["past_lengths"][:], request["end_bias"][:] = 0, 0, 0.0
        request["tokens"][:] = self.limits.start_token
        fed = []
        for index in indices:
            row = launch.rows[index]
            tokens = row.tokens[first : first + shape.length]
            request["tokens"][row.slot, : len(tokens)] = tokens
            request["past_lengths"][row.slot] = row.past_length + first
            request["counts"][row.slot] = len(tokens)
            request["end_bias"][row.slot] = row.end_bias
            fed.append((index, len(tokens)))
        answer = place.memory[self._answer_offset : self._answer_offset + answer_size.bytes]
        place.event = self._last = self._device.decode(shape, place.memory[: request_size.bytes], answer)
        self.bytes_in += request_size.bytes
        self.bytes_out += answer_size.bytes
        launch.passes.append(Pass(place.event, fed, answer_size.views(answer)))
        place.give_up = launch.passes[-1].read

    def align(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        check_alignment(self.limits, slot, tokens, self._holds_audio(slot))
        frames = self._frames[slot]
        share = self._device.align(slot, frames, np.array([self.limits.start_token, *tokens]))
        self.bytes_out += share.nbytes
        return share[1:, :frames]

    def _holds_audio(self, slot: int) -> bool:
        return 0 <= slot < len(self._frames) and self._frames[slot] > 0

    def wait(self) -> None:
        self._last.sync()

    def free(self, slot: int) -> None:
        self._frames[slot] = 0

    def close(self) -> None:
        self._device.close()


def sizes_of(shapes: Sequence[Shape]) -> tuple[list[int], list[int]]:
    """Batches and lengths, ascending."""
    return sorted({shape.batch for shape in shapes}), sorted({shape.length for shape in shapes})


def join(predictions: Sequence[Prediction]) -> Prediction:
    if len(predictions) == 1:
        return predictions[0]
    return Prediction(
        np.concatenate([each.tokens for each in predictions]), np.concatenate([each.log_probs for each in predictions])
    )
