"""The CUDA kernels: they compile for every GPU that TensorRT serves, and run on the host they do what numpy does."""

import ctypes

import numpy as np
import pytest

from runtime import audio
from runtime.audio import DITHER, DITHER_PERIOD_SAMPLES, Clip
from runtime.engine.cuda_device import compile_kernels
from runtime.exceptions import EngineFailed

BATCH, HEADS, HEAD_DIM, PLANES, SLOTS = 4, 3, 5, 4, 6
BLOCKS, THREADS = 2, 7  # few and odd, so that threads stride over what is left and some have nothing to do


def run(kernel, grid: tuple[int, int], *arguments) -> None:
    passed = [each.ctypes.data_as(ctypes.c_void_p) if isinstance(each, np.ndarray) else ctypes.c_int(each) for each in arguments]
    kernel(BLOCKS, *grid, THREADS, *passed)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, shape, dtype=np.uint16)


@pytest.mark.parametrize("capability", ["80", "86", "89", "90", "120"])
@pytest.mark.parametrize("cell_bytes", [2, 4])
def test_kernels_compile_for_every_gpu(capability, cell_bytes):
    assert compile_kernels(capability, cell_bytes).startswith(b"\x7fELF")


def test_a_kernel_that_does_not_compile_says_why():
    with pytest.raises(EngineFailed, match="does not compile for 11: .*gpu-architecture"):
        compile_kernels("11", 2)


def test_audio_is_heard_as_the_host_would_hear_it(kernels):
    samples, counts = 2000, (2000, 1200, 0, 895)
    pcm = np.random.default_rng(1).integers(-32_768, 32_767, (BATCH, samples), dtype=np.int16)
    positions = np.array([0, 65_000, 3, 131_073 % DITHER_PERIOD_SAMPLES])
    heard = np.full((BATCH, samples), 7, np.float32)
    run(kernels.run_hear, (BATCH, 1), pcm, np.array(counts), positions, DITHER, heard, DITHER_PERIOD_SAMPLES, samples)
    for row, count in enumerate(counts):
        expected = audio.to_float(Clip(pcm[row, :count], int(positions[row])))[:count]
        assert np.array_equal(heard[row, :count], expected) and not heard[row, count:].any()


def test_a_rows_keys_and_values_go_to_its_slot_and_nowhere_else(kernels):
    shape_frames, cache_frames = 6, 9
    cross_kv = noise(PLANES, BATCH, HEADS, shape_frames, HEAD_DIM)
    slots, frames = np.array([5, -1, 0, 2]), np.array([6, 4, 1, 3])
    cache, slot_frames = np.full((PLANES, SLOTS, HEADS, cache_frames, HEAD_DIM), 65_535, np.uint16), np.full(SLOTS, 99)
    expected, expected_frames = cache.copy(), slot_frames.copy()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[:, slot, :, : frames[row]] = cross_kv[:, row, :, : frames[row]]
            expected_frames[slot] = frames[row]
    run(
        kernels.run_keep_cross,
        (HEADS, PLANES * BATCH),
        cross_kv,
        slots,
        frames,
        cache,
        slot_frames,
        BATCH,
        HEADS,
        shape_frames,
        HEAD_DIM,
        SLOTS,
        cache_frames,
    )
    assert np.array_equal(cache, expected) and np.array_equal(slot_frames, expected_frames)


def test_new_keys_and_values_go_behind_each_rows_past(kernels):
    new, positions = 4, 10
    new_kv, next_tokens = noise(PLANES, BATCH, HEADS, new, HEAD_DIM), np.arange(BATCH * new).reshape(BATCH, new) + 100
    past_lengths, counts = np.array([0, 6, 3, 9]), np.array([4, 2, 0, 1])
    cache, last_tokens = np.full((PLANES, SLOTS, HEADS, positions, HEAD_DIM), 65_535, np.uint16), np.full(SLOTS, -5)
    expected, expected_last = cache.copy(), last_tokens.copy()
    for row, (past, count) in enumerate(zip(past_lengths, counts, strict=True)):
        expected[:, row, :, past : past + count] = new_kv[:, row, :, :count]
        if count:
            expected_last[row] = next_tokens[row, count - 1]
    run(
        kernels.run_keep_past,
        (HEADS, PLANES * BATCH),
        new_kv,
        past_lengths,
        counts,
        next_tokens,
        cache,
        last_tokens,
        BATCH,
        HEADS,
        new,
        HEAD_DIM,
        SLOTS,
        positions,
    )
    assert np.array_equal(cache, expected) and np.array_equal(last_tokens, expected_last)


def test_a_row_goes_on_with_the_token_it_predicted(kernels):
    tokens, last_tokens = np.array([[-1, 1], [40, 41], [-1, 1], [1, 1]]), np.array([7, 8, 9, 10, 11, 12])
    run(kernels.run_continue_rows, (1, 1), tokens, last_tokens, BATCH, 2)
    assert tokens.tolist() == [[7, 1], [40, 41], [9, 1], [1, 1]]
