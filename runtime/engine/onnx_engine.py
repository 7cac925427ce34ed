"""The base of the engines on ONNX Runtime: the decoder, and the slots' caches in host memory.

The decoder reads its weights once for all rows, so rows are decoded together wherever the work saved exceeds the padding.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from runtime import audio
from runtime.engine.manifest import ALIGNER_FILE, DECODER_FILE, Manifest
from runtime.engine.protocol import CONTINUED, Answered, Engine, Limits, Pending, Prediction, Row, check_alignment, check_row
from runtime.engine.shapes import streaming_frames
from runtime.engine.token_biases import BiasLists
from runtime.exceptions import EngineDirectoryError, EngineFailed

FRAME_BLOCK = 64  # caches are laid out for a multiple of this many frames
POSITION_BLOCK = 32  # and of this many tokens
SPIN_MICROSECONDS = 100
"""Time that a thread waits for the next operator before it sleeps. Without spinning, passes take a fifth longer; with
ONNX Runtime's default, the event loop that feeds the engine is kept from its core."""
PASS_COST_TOKENS = 12  # cost of one more pass, in tokens: the weights are read once more (measured, 2 cores)


class OnnxEngine(Engine):
    """See runtime.engine.protocol.Engine."""

    def __init__(self, directory: Path, manifest: Manifest, limits: Limits, threads: int):
        """Raises EngineDirectoryError if ONNX Runtime cannot load the files."""
        self.name = f"{manifest.target} {manifest.precision}"
        self.limits = limits
        self._decoder = open_session(directory / DECODER_FILE, threads)
        self._open_aligner = functools.cache(
            lambda: open_session(directory / ALIGNER_FILE, threads)
        )  # when it is first asked for
        self._layers, self._aligner_layers = manifest.decoder_layers, manifest.aligner_layers
        rows = (limits.max_batch, manifest.heads, manifest.head_dim)
        dtype, max_frames = cache_dtype(self._decoder), most_frames(limits)
        self._cross = RowCache(self._layers, *rows, max_positions=max_frames, block=FRAME_BLOCK, dtype=dtype)
        self._past = RowCache(self._layers, *rows, max_positions=manifest.max_positions, block=POSITION_BLOCK, dtype=dtype)
        self._frames = np.zeros(limits.max_batch, np.int64)  # of each slot's clip; 0 where the slot is free
        self._held = np.zeros(limits.max_batch, np.int64)  # positions of each slot's past that have been fed
        self._last_tokens = np.zeros(limits.max_batch, np.int64)  # the last token that each slot's last pass predicted

    @property
    def _session_to_decode(self) -> onnxruntime.InferenceSession:
        return self._decoder

    def _keep(self, slot: int, first: int, cross_kv: np.ndarray) -> None:
        """Write keys and values (layers, 2, heads, frames, head_dim) of a slot's audio, from frame `first` to its new end."""
        frames = first + cross_kv.shape[3]
        self._held[slot] = 0
        self._cross.reserve(max(frames, int(self._frames.max())), busy=np.flatnonzero(self._frames))
        self._cross.write(slot, first, cross_kv)
        self._frames[slot] = frames

    def launch(self, rows: Sequence[Row]) -> Answered:
        for row in rows:
            check_row(self.limits, row, self._holds_audio(row.slot))
        deepest = max(row.past_length + len(row.tokens) for row in rows)
        for row in rows:
            self._held[row.slot] = row.past_length
        self._past.reserve(max(deepest, self._held.max()), busy=np.flatnonzero(self._held))
        predictions: dict[int, Prediction] = {}
        for group in group_rows(rows):
            predictions |= self._decode_together(group)
        return Answered([predictions[row.slot] for row in rows])

    def _decode_together(self, rows: Sequence[Row]) -> dict[int, Prediction]:
        """Run one pass over the range of slots from the lowest to the highest row; the other slots in the range are idle."""
        first, last = min(row.slot for row in rows), max(row.slot for row in rows) + 1
        count, new = last - first, max(len(row.tokens) for row in rows)
        tokens = np.full((count, new), self.limits.start_token, np.int64)
        past_lengths, end_bias = np.zeros(count, np.int64), np.zeros(count, np.float32)
        lists, bias_lists = BiasLists(), np.zeros((count, new), np.int64)
        for row in rows:
            bias_lists[row.slot - first, : len(row.biases)] = lists.numbers_of(row.biases)
            fed = (self._last_tokens[row.slot],) if row.tokens == (CONTINUED,) else row.tokens
            tokens[row.slot - first, : len(fed)] = fed
            past_lengths[row.slot - first] = row.past_length
            end_bias[row.slot - first] = row.end_bias
        biased_tokens, biases = lists.table()
        feed: dict[str, np.ndarray] = {
            "tokens": tokens,
            "past_lengths": past_lengths,
            "frames": self._frames[first:last],
            "end_bias": end_bias,
            "bias_lists": bias_lists,
            "biased_tokens": biased_tokens,
            "biases": biases,
        }
        for layer in range(self._layers):
            feed[f"past_key.{layer}"], feed[f"past_value.{layer}"] = self._past.rows(layer, first, last)
            feed[f"cross_key.{layer}"], feed[f"cross_value.{layer}"] = self._cross.rows(layer, first, last)
        next_tokens, log_probs, new_kv = run_session(self._session_to_decode, feed)
        predictions = {}
        for row in rows:
            index, length = row.slot - first, len(row.tokens)
            self._past.write(row.slot, row.past_length, new_kv[:, :, index, :, :length])
            self._held[row.slot] = row.past_length + length
            self._last_tokens[row.slot] = next_tokens[index, length - 1]
            predictions[row.slot] = Prediction(next_tokens[index, :length], log_probs[index, :length])
        return predictions

    def align(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Pending[np.ndarray]:
        for slot, said in zip(slots, tokens, strict=True):
            check_alignment(self.limits, slot, said, self._holds_audio(slot))
        return Answered(list(map(self._align, slots, tokens)))

    def _align(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        feed: dict[str, np.ndarray] = {
            "tokens": np.array([[self.limits.start_token, *tokens]]),
            "frames": self._frames[slot : slot + 1],
        }
        for layer in range(self._aligner_layers):
            feed[f"cross_key.{layer}"], feed[f"cross_value.{layer}"] = self._cross.rows(layer, slot, slot + 1)
        del feed[f"cross_value.{self._aligner_layers - 1}"]  # only the attention of the last layer is needed
        (share,) = run_session(self._open_aligner(), feed)
        return share[0, 1:, : self._frames[slot]]

    def _holds_audio(self, slot: int) -> bool:
        return 0 <= slot < len(self._frames) and bool(self._frames[slot])

    def free(self, slot: int) -> None:
        self._frames[slot] = self._held[slot] = 0

    def clear(self, slot: int) -> None:
        self._cross.clear(slot)
        self._past.clear(slot)

    def close(self) -> None:
        self._open_aligner.cache_clear()
        del self._decoder


def most_frames(limits: Limits) -> int:
    if limits.continues_clips:
        return streaming_frames(limits.max_samples)
    return audio.count_frames(limits.max_samples)


class RowCache:
    """Keys and values of all layers for all slots, laid out so that any range of slots is one contiguous array.

    ONNX Runtime takes an array without copying only if it is contiguous, and attention over positions that no busy slot has
    costs as much as over those in use. So the memory is allocated once for the largest layout, and used for the smallest one
    that holds the busy slots: (slots, heads, positions, head_dim) with few positions. It is zero at first and always stays
    finite: positions after a slot's length are masked, but a mask does not stop a NaN.
    """

    def __init__(self, layers: int, slots: int, heads: int, head_dim: int, max_positions: int, block: int, dtype: type):
        self._shape = (slots, heads, head_dim)
        self._block = block
        self._max_positions = -(-max_positions // block) * block
        self._memory = np.zeros((layers, 2, slots * heads * self._max_positions * head_dim), dtype)
        self._lay_out(block)

    def _lay_out(self, positions: int) -> None:
        slots, heads, head_dim = self._shape
        used = self._memory[:, :, : slots * heads * positions * head_dim]
        self._positions = positions
        self._cache = used.reshape(*used.shape[:2], slots, heads, positions, head_dim)

    def reserve(self, positions: int, busy: np.ndarray) -> None:
        """Make room for `positions` in every slot. busy: indices of the slots whose contents are kept."""
        wanted = -(-positions // self._block) * self._block
        if wanted == self._positions or (wanted < self._positions and len(busy)):
            return  # there is room; a smaller layout is not worth the move
        common = min(wanted, self._positions)
        kept = self._cache[:, :, busy, :, :common]  # a copy, because it is indexed by an array
        self._lay_out(wanted)
        self._cache[:, :, busy, :, :common] = kept

    def write(self, slot: int, position: int, kv: np.ndarray) -> None:
        """Write kv, (layers, 2, heads, new, head_dim), to the slot from `position` on."""
        self._cache[:, :, slot, :, position : position + kv.shape[3]] = kv

    def clear(self, slot: int) -> None:
        self._cache[:, :, slot] = 0

    def rows(self, layer: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return views of the keys and values of the slots first..last-1: (slots, heads, positions, head_dim) each."""
        return self._cache[layer, 0, first:last], self._cache[layer, 1, first:last]


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """Split the rows of a decode into passes, so that the passes and the padding together cost least.

    A pass over the slots from its lowest to its highest row computes that many slots times its longest row. Rows of similar
    length go together.
    """
    rows = sorted(rows, key=lambda row: (len(row.tokens), row.slot))
    best: list[tuple[float, int]] = [(0.0, 0)]  # for each number of rows: least cost, and first row of its last pass
    for end in range(1, len(rows) + 1):
        lowest = highest = rows[end - 1].slot
        least = (math.inf, 0)
        for begin in range(end - 1, -1, -1):
            lowest, highest = min(lowest, rows[begin].slot), max(highest, rows[begin].slot)
            cost = best[begin][0] + PASS_COST_TOKENS + (highest - lowest + 1) * len(rows[end - 1].tokens)
            least = min(least, (cost, begin))
        best.append(least)
    groups, end = [], len(rows)
    while end:
        begin = best[end][1]
        groups.append(rows[begin:end])
        end = begin
    return groups[::-1]


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime raises classes of its own that share no base but Exception
        raise EngineDirectoryError(f"ONNX Runtime cannot load {path}: {exc}") from exc


def cache_dtype(decoder: onnxruntime.InferenceSession) -> type:
    """Return the type of the keys and values: float16 for half precision that is checked on a CPU, else float32."""
    types = {each.name: each.type for each in decoder.get_inputs()}
    return np.float16 if types["past_key.0"] == "tensor(float16)" else np.float32


def run_session(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return session.run(None, feed)
    except Exception as exc:  # see open_session
        raise EngineFailed(f"ONNX Runtime failed: {exc}") from exc
