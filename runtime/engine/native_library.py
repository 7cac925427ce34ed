"""Python bindings of the C++ library that engine_build compiles (engine_build/native/engine.cpp).

Every call releases the GIL while it runs.
"""

import ctypes
import threading
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.exceptions import EngineDirectoryError, EngineFailed

ERROR_BYTES = 256  # as in engine.cpp
SHAPE = (
    "dim",
    "heads",
    "head_dim",
    "rotary_dim",
    "mlp_dim",
    "decoder_layers",
    "vocabulary",
    "max_positions",
    "end_token",
    "clip_encoder_layers",
    "stream_encoder_dim",
    "stream_encoder_heads",
    "stream_encoder_head_dim",
    "stream_encoder_mlp_dim",
    "stream_encoder_layers",
)
"""Arguments of moonshine_open, in order; a model has an encoder of clips or of streams, with zeros for the other."""


class Team:
    """Threads that share a call's work. One call at a time; others wait. Raises EngineFailed if they cannot be started."""

    def __init__(self, library: ctypes.CDLL, threads: int):
        self._library = library
        self._pointer = library.moonshine_team(threads)
        if not self._pointer:
            raise EngineFailed(f"a team of {threads} threads cannot be started; ASR_CPU_THREADS asks for fewer")
        self._lock = threading.Lock() if threads > 1 else None

    def __enter__(self) -> c_void_p:
        if self._lock:
            self._lock.acquire()
        return self._pointer

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.release()

    def close(self) -> None:
        self._library.moonshine_dismiss(self._pointer)


@dataclass(frozen=True)
class CrossAttention:
    """Keys and values of a slot's audio, in the library's layout."""

    address: int
    positions: int
    """Frames that there is room for, in whole blocks."""
    frames: int
    """Frames of the audio."""


class NativeModel:
    """A model's weights in a library's own layout. Any thread may call."""

    def __init__(self, path: Path, shape: Sequence[int], weights: Mapping[str, np.ndarray]):
        """shape: see SHAPE. weights: named as in engine_build/native/. Raises EngineDirectoryError."""
        try:
            self._library = declared(ctypes.CDLL(str(path)))
        except (OSError, AttributeError) as exc:
            raise EngineDirectoryError(f"{path} cannot be loaded: {exc}") from exc
        self._pointer = self._library.moonshine_open((c_int * len(SHAPE))(*shape))
        self.kept_dtype = np.dtype(np.float16 if self._library.moonshine_kept_bytes() == 2 else np.float32)
        """Type of the keys and values that slots keep."""
        try:
            self._take(weights)
        except EngineFailed as exc:
            raise EngineDirectoryError(f"{path} does not fit its weights: {exc}") from exc

    def _take(self, weights: Mapping[str, np.ndarray]) -> None:
        for name in weights:
            array = np.ascontiguousarray(weights[name])
            product, _, kind = name.rpartition(".")
            if kind == "int8":
                scales = np.ascontiguousarray(weights[f"{product}.scales"])
                self._call("moonshine_int8", product.encode(), pointer(array), pointer(scales), *array.shape)
            elif kind == "bfloat16":
                self._call("moonshine_bfloat16", product.encode(), pointer(array), *array.shape)
            elif array.dtype == np.float32 and array.ndim == 2 and name != "embedding":
                self._call("moonshine_floats", name.encode(), pointer(array), *array.shape)
            elif array.dtype == np.float32 and kind != "scales":
                self._call("moonshine_table", name.encode(), pointer(array), array.size)
        self._call("moonshine_complete")

    def team(self, threads: int) -> Team:
        return Team(self._library, threads)

    def whole_blocks(self, positions: int) -> int:
        """Round a number of positions up to whole blocks, which slots allocate."""
        block = int(self._library.moonshine_block())
        return -(-positions // block) * block

    def kept_size(self, positions: int) -> int:
        """Return the count of numbers that one head keeps for this many positions, whole blocks."""
        return int(self._library.moonshine_head_size(self._pointer, positions))

    def encode(self, team: Team, audio: np.ndarray, cross: np.ndarray, positions: int) -> None:
        """Encode a clip into `cross`. audio: float32 (samples,); cross: kept_dtype, keys and values of a slot's audio, with room
        for `positions`. Raises EngineFailed."""
        with team as threads:
            self._call("moonshine_encode", threads, pointer(audio), len(audio), pointer(cross), positions)

    def open_stream(self) -> c_void_p:
        """Return a stream without audio. Raises EngineFailed if there is no memory for it."""
        stream = self._library.moonshine_open_stream(self._pointer)
        if not stream:
            raise EngineFailed("there is no memory for another stream")
        return c_void_p(stream)

    def close_stream(self, stream: c_void_p) -> None:
        self._library.moonshine_close_stream(stream)

    def append(self, team: Team, streams: Sequence[c_void_p], samples: np.ndarray, counts: np.ndarray) -> list[CrossAttention]:
        """Encode new audio of streams, and return each one's keys and values for the decoder.

        samples: float32, of all streams one after the other; counts: int32, the samples of each stream.
        Raises EngineFailed; the contents of the streams are then useless.
        """
        count = len(streams)
        addresses, cross = (c_void_p * count)(*streams), (c_void_p * count)()
        positions, frames = np.empty(count, np.int32), np.empty(count, np.int32)
        with team as threads:
            self._call(
                "moonshine_append",
                threads,
                count,
                addresses,
                pointer(samples),
                pointer(counts),
                cross,
                pointer(positions),
                pointer(frames),
            )
        return [
            CrossAttention(each or 0, *sizes) for each, *sizes in zip(cross, positions.tolist(), frames.tolist(), strict=True)
        ]

    def decode(
        self,
        team: Team,
        tokens: np.ndarray,
        counts: np.ndarray,
        pasts: np.ndarray,
        end_biases: np.ndarray,
        own: Sequence[int],
        cross: Sequence[CrossAttention],
        own_positions: int,
        bias_numbers: np.ndarray,
        bias_lists: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feed tokens and return the choice after each of them, and its log-probability: int64 and float32, shaped like tokens.

        tokens: int64, of all rows one after the other; counts, pasts: int32 (rows,); end_biases: float32 (rows,); own: for each
        row, the address of its slot's keys and values; bias_numbers: int32, shaped like tokens, the number of each token's list;
        bias_lists: for each list, the tokens, int64 and ascending, and their biases, float32. Raises EngineFailed.
        """
        chosen, log_probs = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.float32)
        frames = np.array([each.frames for each in cross], np.int32)
        positions = np.array([each.positions for each in cross], np.int32)
        addresses = c_void_p * len(counts)
        bias_ends = np.cumsum([len(values) for _, values in bias_lists], dtype=np.int32)
        biased_tokens, biases = (np.concatenate(each) for each in zip(*bias_lists, strict=True))
        with team as threads:
            self._call(
                "moonshine_decode",
                threads,
                len(counts),
                pointer(tokens),
                pointer(counts),
                pointer(pasts),
                pointer(frames),
                pointer(end_biases),
                addresses(*own),
                addresses(*(each.address for each in cross)),
                own_positions,
                pointer(positions),
                pointer(bias_numbers),
                len(bias_ends),
                pointer(bias_ends),
                pointer(biased_tokens),
                pointer(biases),
                pointer(chosen),
                pointer(log_probs),
            )
        return chosen, log_probs

    def align(
        self, team: Team, tokens: np.ndarray, own: int, cross: CrossAttention, own_positions: int, heads: np.ndarray
    ) -> np.ndarray:
        """Align tokens with a slot's audio; returns float32 (tokens, frames). tokens: int64, with the start token; heads: int32
        (heads, 2), layer and index."""
        shares = np.empty((len(tokens), cross.frames), np.float32)
        with team as threads:
            self._call(
                "moonshine_align",
                threads,
                pointer(tokens),
                len(tokens),
                cross.frames,
                own,
                cross.address,
                own_positions,
                cross.positions,
                pointer(heads),
                len(heads),
                pointer(shares),
            )
        return shares

    def close(self) -> None:
        self._library.moonshine_close(self._pointer)

    def _call(self, name: str, *arguments: object) -> None:
        error = ctypes.create_string_buffer(ERROR_BYTES)
        if getattr(self._library, name)(self._pointer, *arguments, error):
            raise EngineFailed(error.value.decode(errors="replace"))


def pointer(array: np.ndarray) -> c_void_p:
    return c_void_p(array.ctypes.data)


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the arguments and results of the library's functions. Raises AttributeError if one is missing."""
    pointers = c_void_p
    signatures: dict[str, tuple[type | None, tuple[type, ...]]] = {
        "moonshine_open": (pointers, (POINTER(c_int),)),
        "moonshine_close": (None, (pointers,)),
        "moonshine_team": (pointers, (c_int,)),
        "moonshine_dismiss": (None, (pointers,)),
        "moonshine_kept_bytes": (c_int, ()),
        "moonshine_block": (c_int, ()),
        "moonshine_floats": (c_int, (pointers, c_char_p, pointers, c_int, c_int, c_char_p)),
        "moonshine_bfloat16": (c_int, (pointers, c_char_p, pointers, c_int, c_int, c_char_p)),
        "moonshine_int8": (c_int, (pointers, c_char_p, pointers, pointers, c_int, c_int, c_char_p)),
        "moonshine_table": (c_int, (pointers, c_char_p, pointers, c_int64, c_char_p)),
        "moonshine_complete": (c_int, (pointers, c_char_p)),
        "moonshine_head_size": (c_int64, (pointers, c_int)),
        "moonshine_encode": (c_int, (pointers, pointers, pointers, c_int, pointers, c_int, c_char_p)),
        "moonshine_open_stream": (pointers, (pointers,)),
        "moonshine_close_stream": (None, (pointers,)),
        "moonshine_append": (c_int, (pointers, pointers, c_int, *(pointers,) * 6, c_char_p)),
        "moonshine_decode": (
            c_int,
            (pointers, pointers, c_int, *(pointers,) * 7, c_int, *(pointers,) * 2, c_int, *(pointers,) * 5, c_char_p),
        ),
        "moonshine_align": (
            c_int,
            (pointers, pointers, pointers, c_int, c_int, pointers, pointers, c_int, c_int, pointers, c_int, pointers, c_char_p),
        ),
    }
    for name, (returns, takes) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = returns, takes
    return library
