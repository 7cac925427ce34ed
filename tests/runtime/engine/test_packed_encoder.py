"""Rows one behind the other are heard as rows alone: on the CPU, where attention is written out."""

import numpy as np
import pytest

from benchmarks.modelled_device import Costs, open_modelled, words_of
from runtime.audio import MIN_SAMPLES, SAMPLES_PER_FRAME, Clip
from runtime.engine.device_engine import clip_samples, fill_packed
from runtime.engine.protocol import Row
from runtime.engine.shapes import MOST_ENCODER_ROWS, Shape, packed_shapes
from runtime.engine.staging import request_layout
from tests.engines import open_torch_on_cpu

BLOCK = (1, 400, 500, 600)


@pytest.fixture(scope="module")
def packed(built):
    opened = open_torch_on_cpu("fp32", built, packs=True)
    yield opened.engine
    opened.engine.close()


@pytest.fixture(scope="module")
def mixed(clips) -> list[Clip]:
    """Of all lengths, from anywhere in their streams, faint, with an offset, with pauses left out and silence around them."""
    first, second, third = (clips[index].samples for index in (18, 1, 14))
    faint = (second // 8 + 90).astype(np.int16)
    position = 70_000
    stretches = ((position + 1000, position + 30_001), (position + 40_000, position + 90_000))
    return [
        Clip(first),
        Clip(faint, position, stretches, offset=90, gain=7.3, quiet_before=801, quiet_behind=2_400),
        Clip(third[:300], 12_345),
        Clip(third, 66_000, ((66_000, 66_000 + 40_000),), offset=0, gain=1.0, quiet_behind=1),
        Clip(second[: 5 * 16_000 + 7], 3),
    ]


def test_rows_together_are_heard_as_each_alone_in_the_padded_encoder(packed, torch_fp32, mixed):
    slots = [4, 0, 3, 1, 6]
    packed.encode(slots, mixed)
    together = packed.decode([Row(slot, BLOCK, 0) for slot in slots])
    for slot, clip, found in zip(slots, mixed, together, strict=True):
        torch_fp32.engine.encode([2], [clip])
        (alone,) = torch_fp32.engine.decode([Row(2, BLOCK, 0)])
        torch_fp32.engine.free(2)
        packed.free(slot)
        assert found.tokens.tolist() == alone.tokens.tolist()
        assert np.abs(found.log_probs - alone.log_probs).max() < 1e-3


def test_a_row_does_not_depend_on_its_neighbours(packed, mixed):
    packed.encode([0], [mixed[4]])
    (alone,) = packed.decode([Row(0, BLOCK, 0)])
    packed.encode([1, 0, 2], [mixed[0], mixed[4], mixed[3]])
    (between,) = packed.decode([Row(0, BLOCK, 0)])
    for slot in range(3):
        packed.free(slot)
    assert between.tokens.tolist() == alone.tokens.tolist()
    assert np.abs(between.log_probs - alone.log_probs).max() < 1e-4


def test_what_is_handed_over_is_every_row_as_it_came_from_a_whole_frame_on(mixed):
    lengths = [clip_samples(clip) for clip in mixed]
    shape = Shape("packed encoder", MOST_ENCODER_ROWS, 30 * 16_000 // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME)
    request = request_layout(shape).views(np.full(request_layout(shape).bytes, 77, np.uint8))
    fill_packed(request, mixed, lengths)
    assert lengths[2] == MIN_SAMPLES and (request["starts"][5:] == request["starts"][5]).all()
    for index, clip in enumerate(mixed):
        first = request["starts"][index] * SAMPLES_PER_FRAME
        raw = request["pcm"][first : first + lengths[index]]
        loud = (raw.astype(np.float32) - request["offsets"][index]) * request["gains"][index]
        assert np.array_equal(np.clip(np.rint(loud), -32_768, 32_767)[: clip.sample_count], clip.samples)
        assert not loud[clip.sample_count :].any(), "a short clip ends in silence"


@pytest.mark.parametrize(("max_batch", "max_seconds"), [(1, 13), (2, 13), (8, 29), (128, 13), (256, 29)])
def test_every_batch_of_clips_has_a_shape(max_batch, max_seconds):
    shapes = packed_shapes(max_batch, max_seconds * 16_000)
    assert all(shape.length % SAMPLES_PER_FRAME == 0 and shape.batch == MOST_ENCODER_ROWS for shape in shapes)
    lengths = [shape.length for shape in shapes]
    assert lengths == sorted(set(lengths)) and lengths[-1] >= (max_seconds * 16_000) + SAMPLES_PER_FRAME


def test_more_than_a_pass_takes_goes_in_several():
    """On a modelled device, which takes no time."""
    engine = open_modelled(256, 13.0, Costs())
    whole = Clip(np.zeros(engine.limits.max_samples, np.int16))
    for count in (1, 36, 37, 65, 200):
        engine.encode(list(range(count)), [whole] * count)
        found = engine.decode([Row(slot, (1,), 0) for slot in range(count)])
        assert {int(each.tokens[0]) for each in found} == {words_of(13.0)[0]}
        for slot in range(count):
            engine.free(slot)
