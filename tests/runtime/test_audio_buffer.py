"""A buffer holds what was added and not dropped, and what was read of it stays as it is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.audio_buffer import FIRST_SAMPLES, AudioBuffer

STEPS = st.lists(st.tuples(st.integers(0, 3 * FIRST_SAMPLES), st.floats(0, 1)), max_size=12)


@given(STEPS)
def test_what_was_read_never_changes(steps):
    """steps: samples to add, and the share of what is held to drop after that."""
    buffer, held, reads = AudioBuffer(), np.zeros(0, np.int16), []
    for number, (samples, share) in enumerate(steps):
        added = (np.arange(samples) * 7 + number).astype(np.int16)
        buffer.append(added.tobytes())
        held = np.concatenate([held, added])
        assert len(buffer) == len(held)
        reads.append((buffer.read(0, len(held)), held))
        reads.append((buffer.read(len(held) // 3, len(held) // 2), held[len(held) // 3 : len(held) // 2]))
        dropped = int(share * len(held))
        buffer.drop(dropped)
        held = held[dropped:]
    assert all(np.array_equal(read, expected) for read, expected in reads)
