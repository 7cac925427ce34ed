"""The base of the engines that are compiled for this processor: their weights, and the decoder, whose rows are packed.

Owns the keys and values of the slots' tokens, in host memory; the subclass owns those of the slots' audio.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from runtime.engine.manifest import NATIVE_WEIGHTS, Manifest
from runtime.engine.native_library import CrossAttention, NativeModel, Team
from runtime.engine.protocol import CONTINUED, Answered, Engine, Limits, Pending, Prediction, Row, check_alignment, check_row
from runtime.engine.token_biases import NO_BIASES, BiasLists
from runtime.exceptions import EngineDirectoryError


class NativeEngine(Engine):
    """See runtime.engine.protocol.Engine."""

    def __init__(self, directory: Path, library: str, manifest: Manifest, limits: Limits):
        """library: one of the manifest's libraries. Raises EngineDirectoryError if the library or its weights cannot be used."""
        self.name = f"{manifest.target} {manifest.precision}"
        self.limits = limits
        try:
            weights = dict(np.load(directory / NATIVE_WEIGHTS))
        except (OSError, ValueError) as exc:
            raise EngineDirectoryError(f"{directory / NATIVE_WEIGHTS} cannot be read: {exc}") from exc
        self._alignment_heads, self._predicts = weights.pop("alignment_heads"), bool(weights.pop("alignment_predicts"))
        self._model = NativeModel(directory / library, shape_of(manifest, weights), weights)
        self._heads = manifest.decoder_layers * manifest.heads
        self._own_positions = self._model.whole_blocks(manifest.max_positions)
        self._own: dict[int, np.ndarray] = {}  # keys and values of the tokens fed, by slot; resting slots have none
        self._spare_own: list[np.ndarray] = []
        self._own_to_align = self._take_own()
        self._cross: dict[int, CrossAttention] = {}  # by slot; free slots have none
        self._last_tokens = np.zeros(limits.max_batch, np.int64)  # the last token that each slot's last pass predicted

    @property
    def _team_to_decode(self) -> Team:
        raise NotImplementedError

    def launch(self, rows: Sequence[Row]) -> Pending[Prediction]:
        for row in rows:
            check_row(self.limits, row, row.slot in self._cross)
        fed = [(self._last_tokens[row.slot],) if row.tokens == (CONTINUED,) else row.tokens for row in rows]
        lists = BiasLists()
        numbers = [number for row in rows for number in lists.numbers_of(row.biases or (NO_BIASES,) * len(row.tokens))]
        tokens, log_probs = self._model.decode(
            self._team_to_decode,
            np.array([token for each in fed for token in each], np.int64),
            np.array([len(each) for each in fed], np.int32),
            np.array([row.past_length for row in rows], np.int32),
            np.array([row.end_bias for row in rows], np.float32),
            [self._own_of(row.slot).ctypes.data for row in rows],
            [self._cross[row.slot] for row in rows],
            self._own_positions,
            np.array(numbers, np.int32),
            [(each.tokens, each.values) for each in lists.lists],
        )
        ends = list(itertools.accumulate(map(len, fed)))
        for row, end in zip(rows, ends, strict=True):
            self._last_tokens[row.slot] = tokens[end - 1]
        return Answered([Prediction(tokens[begin:end], log_probs[begin:end]) for begin, end in itertools.pairwise([0, *ends])])

    def _own_of(self, slot: int) -> np.ndarray:
        if slot not in self._own:
            self._own[slot] = self._take_own()
        return self._own[slot]

    def _take_own(self) -> np.ndarray:
        size = self._heads * self._model.kept_size(self._own_positions)
        return self._spare_own.pop() if self._spare_own else np.zeros(size, self._model.kept_dtype)

    def align(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Pending[np.ndarray]:
        for slot, said in zip(slots, tokens, strict=True):
            check_alignment(self.limits, slot, said, slot in self._cross)
        return Answered(list(map(self._align, slots, tokens)))

    def _align(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        shares = self._model.align(
            self._team_to_decode,
            np.array([self.limits.start_token, *tokens], np.int64),
            self._own_to_align.ctypes.data,
            self._cross[slot],
            self._own_positions,
            self._alignment_heads,
        )
        return shares[:-1] if self._predicts else shares[1:]  # heads attend to the token they predict, or to the one fed

    def rest(self, slot: int) -> None:
        if (own := self._own.pop(slot, None)) is not None:
            self._spare_own.append(own)

    def free(self, slot: int) -> None:
        self._cross.pop(slot, None)
        self.rest(slot)

    def clear(self, slot: int) -> None:
        self._own_of(slot)[:] = 0

    def close(self) -> None:
        self._model.close()


def shape_of(manifest: Manifest, weights: Mapping[str, np.ndarray]) -> list[int]:
    """See native_library.SHAPE."""
    decoder = [
        manifest.dim,
        manifest.heads,
        manifest.head_dim,
        int(np.count_nonzero(weights["rotary"][1, 1])),  # the sines of the second position
        len(weights["decoder.0.fc1.bias"]) // 2,
        manifest.decoder_layers,
        manifest.vocabulary,
        manifest.max_positions,
        manifest.end_token,
    ]
    encoder = manifest.stream_encoder
    if encoder is None:
        return [*decoder, manifest.encoder_layers, 0, 0, 0, 0, 0]
    mlp_dim = len(weights["encoder.0.fc1.bias"])
    return [*decoder, 0, encoder.dim, encoder.heads, encoder.head_dim, mlp_dim, manifest.encoder_layers]
