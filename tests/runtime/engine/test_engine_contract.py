"""What every engine promises (runtime/engine/protocol.py), asked of each."""

import numpy as np
import pytest

from runtime.audio import Clip, count_frames
from runtime.engine.onnx_engine import group_rows
from runtime.engine.protocol import CONTINUED, Row
from server.stream.confidence import END_BIAS
from tests import greedy

# Between log-probabilities of one block and of the same in parts. int8 rounds activations, where a sum in another order may
# tip a rounding; there, which of two tokens as good as equally likely is the best may change with it.
LARGEST_DIFFERENCES = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.1, "int8": 0.2}


@pytest.fixture(params=["fp32", "int8", "native_fp32", "native_bf16", "native_int8", "torch_fp32", "host_tensorrt_fp16"])
def engine(request):
    return request.getfixturevalue(request.param).engine


def test_a_slot_keeps_its_audio_while_others_come_and_go(engine, clips):
    """Slots of very different length move the caches about; what is in them must not change."""
    first, long, third = (Clip(clips[index].samples) for index in (18, 1, 14))
    expected = greedy.decode(engine, first).tokens
    engine.encode([0], [first])
    fed, said = (engine.limits.start_token,), []
    for position in range(len(expected)):
        if position == 3:
            engine.encode([5], [long])
        if position == 6:
            engine.free(5)
            engine.encode([1], [third])
            engine.decode([Row(1, (1, *range(100, 160)), 0)])
        fed = (int(engine.decode([Row(0, fed, position)])[0].tokens[0]),)
        said += fed
    engine.free(0)
    engine.free(1)
    assert said == expected


def test_a_slot_that_was_cleared_is_as_good_as_new_and_its_neighbours_keep_what_they_hold(engine, clips):
    clip = Clip(clips[18].samples)
    engine.encode([1, 2], [clip, clip])
    expected = engine.decode([Row(1, (1, 739, 338), 0)])[0]
    engine.clear(1)
    emptied = engine.decode([Row(1, (1, 739, 338), 0)])[0]
    beside = engine.decode([Row(2, (1, 739, 338), 0)])[0]
    engine.encode([1], [clip])
    again = engine.decode([Row(1, (1, 739, 338), 0)])[0]
    engine.free(1)
    engine.free(2)
    assert np.isfinite(emptied.log_probs).all() and not np.allclose(emptied.log_probs, expected.log_probs, atol=0.05)
    for found in (beside, again):
        assert np.allclose(found.log_probs, expected.log_probs, atol=0.02)


def test_a_row_may_be_fed_again_from_an_earlier_position(engine, clips):
    engine.encode([2], [Clip(clips[0].samples)])
    right = engine.decode([Row(2, (1, 739, 338), 0)])[0]
    engine.decode([Row(2, (9000, 9001, 9002), 1)])
    again = engine.decode([Row(2, (739, 338), 1)])[0]
    engine.free(2)
    assert again.tokens.tolist() == right.tokens.tolist()[1:]


def test_a_token_is_fed_again_without_being_read_back(engine, clips):
    """Two rows, launched ahead of their answers: the same tokens as fed one by one."""
    chosen = [Clip(clips[index].samples) for index in (18, 14)]
    expected = [greedy.decode(engine, clip).tokens[:5] for clip in chosen]
    engine.encode([0, 3], chosen)
    launched = [engine.launch([Row(slot, (1,), 0) for slot in (0, 3)])]
    launched += [engine.launch([Row(slot, (CONTINUED,), position) for slot in (0, 3)]) for position in range(1, 5)]
    results = [pending.result() for pending in launched]
    said = [[int(step[row].tokens[0]) for step in results] for row in range(2)]
    engine.free(0)
    engine.free(3)
    assert said == expected and all(pending.ready for pending in launched)


def test_a_block_of_any_length_is_as_good_as_its_tokens_one_by_one(engine, clips):
    clip, tokens = Clip(clips[18].samples), (1, *range(500, 640))
    engine.encode([1], [clip])
    together = engine.decode([Row(1, tokens, 0)])[0]
    parts = [engine.decode([Row(1, tokens[first : first + 7], first)])[0] for first in range(0, len(tokens), 7)]
    engine.free(1)
    precision = engine.name.split()[-1]
    log_probs = np.concatenate([part.log_probs for part in parts])
    assert np.abs(together.log_probs - log_probs).max() < LARGEST_DIFFERENCES[precision]
    if precision == "fp32":
        assert together.tokens.tolist() == np.concatenate([part.tokens for part in parts]).tolist()


def test_clips_of_mixed_lengths_are_encoded_as_if_alone(engine, clips):
    chosen = [Clip(clips[index].samples) for index in (1, 18, 0, 14, 5)]
    alone = [greedy.decode(engine, clip).tokens[0] for clip in chosen]
    engine.encode([4, 2, 0, 1, 3], chosen)
    together = engine.decode([Row(slot, (1,), 0, END_BIAS) for slot in (4, 2, 0, 1, 3)])
    for slot in range(5):
        engine.free(slot)
    assert [int(prediction.tokens[0]) for prediction in together] == alone


def test_the_end_bias_counts_at_the_first_position_only(engine):
    silence = Clip(np.zeros(16_000, np.int16))
    engine.encode([0], [silence])
    end = engine.limits.end_token
    assert engine.decode([Row(0, (1,), 0)])[0].tokens[0] == end
    assert engine.decode([Row(0, (1,), 0, end_bias=100.0)])[0].tokens[0] != end
    unbiased = engine.decode([Row(0, (1, 887), 0)])[0].tokens
    assert engine.decode([Row(0, (887,), 1, end_bias=100.0)])[0].tokens[0] == unbiased[1]
    engine.free(0)


@pytest.mark.parametrize("samples", [0, 1, 500, 895, 896, 3000])
def test_audio_however_short_is_encoded(engine, samples):
    engine.encode([0], [Clip(np.full(samples, 1000, np.int16))])
    assert len(engine.decode([Row(0, (1,), 0)])[0].tokens) == 1
    engine.free(0)


def test_what_is_outside_the_limits_is_refused_by_name(engine, clips):
    clip = Clip(clips[0].samples)
    with pytest.raises(ValueError, match="slot 8 is outside 0..7"):
        engine.encode([8], [clip])
    with pytest.raises(ValueError, match="the engine holds"):
        engine.encode([0], [Clip(np.zeros(engine.limits.max_samples + 1, np.int16))])
    with pytest.raises(ValueError, match="slot 3 holds no audio"):
        engine.decode([Row(3, (1,), 0)])
    engine.encode([0], [clip])
    with pytest.raises(ValueError, match="no token to feed"):
        engine.decode([Row(0, (), 0)])
    with pytest.raises(ValueError, match="end past position"):
        engine.decode([Row(0, (1,) * 10, engine.limits.max_positions - 5)])
    engine.free(0)


def test_rows_are_grouped_so_that_padding_costs_less_than_passes():
    def lengths(*counts: int) -> list[Row]:
        return [Row(slot, (1,) * count, 0) for slot, count in enumerate(counts)]

    def slots(groups) -> list[list[int]]:
        return [[row.slot for row in group] for group in groups]

    assert slots(group_rows(lengths(1, 1, 1, 1))) == [[0, 1, 2, 3]], "single steps go together"
    assert slots(group_rows(lengths(1, 40, 1))) == [[0, 2], [1]], "nobody pays for another's long draft"
    assert slots(group_rows(lengths(20, 22))) == [[0, 1]], "like lengths go together"


def test_a_row_is_aligned_whatever_is_in_the_other_slots(engine, clips):
    """Shares of attention, frame for frame; and what cannot be aligned is refused."""
    first, other = (Clip(clips[index].samples) for index in (18, 1))
    tokens = greedy.decode(engine, first).tokens
    engine.encode([0], [first])
    (alone,) = engine.align([0], [tokens]).result()
    engine.free(0)
    engine.encode([0, 3], [other, first])
    short, share = engine.align([0, 3], [tokens[:2], tokens]).result()
    assert short.shape == (2, count_frames(len(other.samples)))
    assert share.shape == alone.shape == (len(tokens), count_frames(len(first.samples)))
    assert np.abs(share - alone).max() < 1e-3
    assert np.allclose(share.sum(axis=1), 1, atol=1e-2), "each token shares out the whole of its attention"
    for slot, refused in ((5, tokens), (99, tokens), (3, []), (3, [5] * engine.limits.max_positions)):
        with pytest.raises(ValueError):
            engine.align([slot], [refused])
    engine.free(0)
    engine.free(3)
