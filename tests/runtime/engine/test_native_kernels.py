"""The native engine's kernels against numpy, on sizes of every kind. They run once more under the address and undefined-behaviour
sanitizers, and the whole engine with them: see test_native.py."""

import ctypes
import math
import os
import subprocess
from ctypes import c_float, c_int, c_void_p
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import roofline
from engine_build import native_libraries, native_target

PROJECT = Path(__file__).parents[3]
SANITIZED = "NATIVE_KERNELS_SANITIZED"  # set in the run under sanitizers
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g")
ACTIVATIONS = {
    "exponential": np.exp,
    "hyperbolic tangent": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
}


EMULATED = {
    level: ("-include", str(PROJECT / "tests" / header), "-Wno-psabi", "-O1")
    for level, header in (("AVX-512", "avx512_emulated.h"), ("AVX-VNNI", "avx_vnni_emulated.h"))
}
"""The code for other processors on any."""


def compiled(path: Path, source: Path, *extra: str, level: native_libraries.Level = native_libraries.LEAST) -> Path:
    options = native_libraries.options_for(level)
    subprocess.run(["g++", *options, *extra, f"-I{native_libraries.SOURCES}", "-o", path, source], check=True)
    return path


@pytest.fixture(scope="module", params=["own"] if os.environ.get(SANITIZED) else ["AVX2", "own", *EMULATED])
def kernels(request, tmp_path_factory) -> ctypes.CDLL:
    extra = (*(SANITIZERS if os.environ.get(SANITIZED) else ()), *EMULATED.get(request.param, ()))
    path = tmp_path_factory.mktemp("native") / "kernels.so"
    level = roofline.best_level() if request.param == "own" else native_libraries.LEAST
    if request.param == "own" and level == native_libraries.LEAST and not os.environ.get(SANITIZED):
        pytest.skip("this processor has nothing beyond AVX2")
    compiled(path, PROJECT / "tests" / "native_kernels.cpp", *extra, level=level)
    library = ctypes.CDLL(str(path))
    library.quantise_row.restype = c_float
    return library


def at(array: np.ndarray) -> c_void_p:
    return c_void_p(array.ctypes.data)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_numpy(kernels, name):
    x = np.concatenate([np.linspace(-80, 80, 4001), np.linspace(-3, 3, 3999)]).astype(np.float32)
    if name == "hyperbolic tangent":
        x /= 4
    out = np.empty_like(x)
    kernels.activate(list(ACTIVATIONS).index(name), at(x), at(out), len(x))
    expected = ACTIVATIONS[name](x.astype(np.float64))
    assert (np.abs(out - expected) <= 1e-6 * (1 + np.abs(expected))).all()


@given(st.integers(2, 900), st.integers(0, 1000))
def test_a_normalised_row_has_no_mean_and_a_variance_of_one(kernels, dim, seed):
    """Rows of any width, filled up to whole vectors with zeros, which stay zeros."""
    row, weight, out = (np.zeros(-(-dim // 16) * 16, np.float32) for _ in range(3))
    row[:dim], weight[:dim] = numbers(seed, dim) * 3 + 5, numbers(seed + 1, dim)
    kernels.normalise_row(at(row), at(weight), dim, at(out))
    centred = row[:dim].astype(np.float64) - row[:dim].mean()
    assert np.allclose(out[:dim], centred / np.sqrt((centred**2).mean() + 1e-5) * weight[:dim], atol=1e-3)
    assert not out[dim:].any()


@given(st.integers(1, 200), st.integers(0, 1000), st.sampled_from([0.0, 1e-20, 1.0, 1e6]))
def test_a_quantised_row_is_off_by_half_a_step_at_most(kernels, depth, seed, size):
    row, out = numbers(seed, depth) * np.float32(size), np.full(depth + 3, 99, np.int8)
    scale = kernels.quantise_row(at(row), depth, at(out))
    assert np.isclose(scale, np.abs(row).max() / 127)
    filled = -depth % 4
    if kernels.bias():
        out[: depth + filled] ^= np.int8(-128)  # which takes 128 off again
    assert np.abs(out[:depth] * scale - row).max() <= scale * 0.501
    assert not out[depth : depth + filled].any() and (out[depth + filled :] == 99).all(), "filled up to a quad, and no further"


FLOATS, BFLOAT16, INT8 = range(3)  # Kind, in product.h
KINDS = {"float32": FLOATS, "uint16": BFLOAT16, "int8": INT8}


def multiplied(kernels, x: np.ndarray, weight: np.ndarray, scales: np.ndarray | None, bias: np.ndarray, threads: int = 1):
    out = np.full((len(x), len(weight)), np.nan, np.float32)
    kernels.product(
        threads,
        KINDS[str(weight.dtype)],
        at(weight),
        None if scales is None else at(scales),
        at(bias),
        *weight.shape,
        at(x),
        len(x),
        at(out),
    )
    return out


sizes = st.tuples(st.integers(1, 120), st.integers(1, 100), st.integers(1, 90))


@given(sizes, st.integers(0, 1000), st.sampled_from([1, 3]))
@settings(deadline=None)
def test_a_product_of_floats_is_that_of_numpy(kernels, size, seed, threads):
    rows, columns, depth = size
    x, weight, bias = numbers(seed, rows, depth), numbers(seed + 1, columns, depth), numbers(seed + 2, columns)
    assert np.allclose(multiplied(kernels, x, weight, None, bias, threads), x @ weight.T + bias, atol=1e-3)


@given(sizes, st.integers(0, 1000), st.sampled_from([1, 3]))
@settings(deadline=None)
def test_a_product_of_bfloat16_is_that_of_numpy_with_both_sides_rounded(kernels, size, seed, threads):
    rows, columns, depth = size
    x, weight = numbers(seed, rows, depth), native_target.bfloat16_of(numbers(seed + 1, columns, depth))
    expected = of_bfloat16(native_target.bfloat16_of(x)) @ of_bfloat16(weight).T
    assert np.allclose(multiplied(kernels, x, weight, None, np.zeros(columns, np.float32), threads), expected, atol=1e-3)


def of_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@given(st.floats(-(2.0**127), 2.0**127, width=32))
@settings(deadline=None)
def test_bfloat16_is_rounded_as_torch_rounds_it(number):
    import torch

    assert (
        of_bfloat16(native_target.bfloat16_of(np.array([number], np.float32)))[0]
        == torch.tensor(number).bfloat16().float().item()
    )


@given(sizes, st.integers(0, 1000), st.sampled_from([1, 3]))
@settings(deadline=None)
def test_a_product_of_int8_adds_up_exactly(kernels, size, seed, threads):
    """Also of the largest numbers there are, whose pairs just fit 16 bits."""
    rows, columns, depth = size
    generator = np.random.default_rng(seed)
    whole = generator.integers(-127, 128, (rows, depth))
    weight = generator.choice([-127, 127], (columns, depth)).astype(np.int8)
    whole[:, 0] = 127  # so that a row's scale is 1
    out = multiplied(
        kernels, whole.astype(np.float32), weight, np.ones(columns, np.float32), np.zeros(columns, np.float32), threads
    )
    assert (out == whole @ weight.T.astype(np.int64)).all()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_row_alone_equals_the_row_in_a_batch_bit_for_bit(kernels, kind):
    x, weight, bias = numbers(1, 61, 101), numbers(2, 70, 101), numbers(3, 70)
    scales = np.full(70, 0.01, np.float32) if kind == "int8" else None
    if kind != "float32":
        weight = (weight * 40).astype(np.int8) if kind == "int8" else native_target.bfloat16_of(weight)
    together = multiplied(kernels, x, weight, scales, bias)
    for row in range(0, 61, 5):
        for count in (1, 2, 5):
            assert (multiplied(kernels, x[row : row + count], weight, scales, bias) == together[row : row + count]).all()


@given(st.sampled_from([36, 52, 64]), st.integers(1, 70), st.integers(1, 9), st.integers(0, 1000))
@settings(deadline=None)
def test_attention_is_that_of_numpy_and_a_query_alone_equals_it_among_others(kernels, dim, positions, count, seed):
    keys, values, queries = numbers(seed, positions, dim), numbers(seed + 1, positions, dim), numbers(seed + 2, count, dim)
    seen = np.random.default_rng(seed).integers(1, positions + 1, count).astype(np.int32)

    def attended(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        out, shares = np.empty((last - first, dim), np.float32), np.zeros((last - first, positions), np.float32)
        asked, seeing = queries[first:last].copy(), seen[first:last].copy()
        kernels.attention(c_int(dim), positions, at(keys), at(values), at(asked), at(seeing), last - first, at(out), at(shares))
        return out, shares

    out, shares = attended(0, count)
    for q in range(count):
        scores = np.exp((keys[: seen[q]] @ queries[q]).astype(np.float64) - (keys[: seen[q]] @ queries[q]).max())
        expected = scores / scores.sum()
        assert np.allclose(shares[q, : seen[q]], expected, atol=1e-4)
        assert np.allclose(out[q], expected @ values[: seen[q]], atol=1e-3)
        alone = attended(q, q + 1)
        assert (alone[0][0] == out[q]).all() and (alone[1][0] == shares[q]).all()


@given(st.sampled_from([36, 52, 64]), st.integers(1, 90), st.integers(0, 1000))
@settings(deadline=None)
def test_attention_over_everything_is_that_of_numpy_whatever_part_of_it_is_asked_for(kernels, dim, positions, seed):
    parts = numbers(seed, positions, 3 * dim)

    def attended(first: int, last: int) -> np.ndarray:
        out = np.full((positions + 1, dim), 99, np.float32)
        kernels.attention_over_everything(dim, positions, at(parts), first, last, at(out))
        assert (out[:first] == 99).all() and (out[last:] == 99).all(), "it writes what it was asked for"
        return out[first:last]

    queries, keys, values = parts[:, :dim], parts[:, dim : 2 * dim], parts[:, 2 * dim :]
    scores = (queries @ keys.T).astype(np.float64)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = shares / shares.sum(axis=1, keepdims=True) @ values
    whole, middle = attended(0, positions), positions // 2
    assert np.abs(whole - expected).max() < (0.25 if kernels.rounds_attention() else 1e-3)
    assert (np.concatenate([attended(0, middle), attended(middle, positions)]) == whole).all()
