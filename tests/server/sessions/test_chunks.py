"""A recording is divided without loss, where it is quiet, and little of it is held."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE
from server.sessions.chunks import LONGEST_SECONDS, SHORTEST_SECONDS, Chunks


def divided(pcm: bytes, cuts: list[int] = []) -> list:  # noqa: B006
    chunks = Chunks()
    pieces = [pcm[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(pcm)])]
    return [chunk for piece in pieces for chunk in chunks.take(piece)] + list(chunks.finish())


@settings(max_examples=20)
@given(st.integers(0, 100), st.lists(st.integers(0, 3_000_000), max_size=5))
def test_nothing_is_lost_however_it_comes(seconds, cuts):
    pcm = np.random.default_rng(0).integers(-99, 99, seconds * SAMPLE_RATE + 7, dtype=np.int16).tobytes()
    chunks = divided(pcm, [cut for cut in cuts if cut < len(pcm)])
    assert b"".join(chunk.pcm for chunk in chunks) == pcm
    assert [chunk.start for chunk in chunks] == [0, *itertools.accumulate(len(chunk.pcm) // 2 for chunk in chunks[:-1])]
    assert all(SHORTEST_SECONDS * SAMPLE_RATE <= len(chunk.pcm) // 2 <= LONGEST_SECONDS * SAMPLE_RATE for chunk in chunks[:-1])
    assert chunks == divided(pcm)


def test_a_cut_is_made_in_the_pause():
    samples = np.random.default_rng(0).integers(-9000, 9000, 70 * SAMPLE_RATE, dtype=np.int16)
    samples[31 * SAMPLE_RATE : 32 * SAMPLE_RATE] //= 1000
    first = divided(samples.tobytes())[0]
    assert 31.1 * SAMPLE_RATE < len(first.pcm) // 2 < 31.9 * SAMPLE_RATE
