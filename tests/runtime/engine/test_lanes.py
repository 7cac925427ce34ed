"""The CPU engine encodes clips beside each other and beside the decoder; nobody's words notice."""

import numpy as np
import pytest

from runtime.audio import Clip
from runtime.engine.onnx_clip_engine import OnnxClipEngine
from runtime.engine.protocol import Cores, Row
from tests import greedy


@pytest.mark.parametrize("precision", ["fp32", "int8", "native_fp32", "native_int8"])
def test_clips_encoded_beside_each_other_and_beside_a_decode_give_the_same_words(precision, request, clips):
    engine = request.getfixturevalue(precision).engine
    chosen = [Clip(clip.samples) for clip in sorted(clips, key=lambda clip: len(clip.samples))[::4]]
    alone = [greedy.decode(engine, clip).tokens for clip in chosen]
    engine.encode([7], [chosen[0]])
    encodings = [engine.begin_encode(slot, clip, cores=Cores.ONE) for slot, clip in enumerate(chosen)]
    first = [engine.limits.start_token]
    for position in range(len(alone[0]) + 1):
        (prediction,) = engine.decode([Row(7, (first[-1],), position)])
        first.append(int(prediction.tokens[0]))
    assert first[1:] == [*alone[0], engine.limits.end_token], "while the others are encoded"
    for encoding in reversed(encodings):
        encoding.finish()
    for slot, expected in enumerate(alone):
        (prediction,) = engine.decode([Row(slot, (engine.limits.start_token, *expected), 0)])
        assert prediction.tokens.tolist() == [*expected, engine.limits.end_token], f"slot {slot}"
        engine.free(slot)
    engine.free(7)


def test_a_slot_that_was_freed_or_given_away_meanwhile_is_not_filled(fp32, clips):
    engine: OnnxClipEngine = fp32.engine
    short, long = (Clip(clip.samples) for clip in sorted(clips, key=lambda clip: len(clip.samples))[:: len(clips) - 1])
    expected = greedy.decode(engine, short).tokens
    freed = engine.begin_encode(2, long, cores=Cores.ONE)
    engine.free(2)
    freed.finish()
    with pytest.raises(ValueError, match="slot 2 holds no audio"):
        engine.decode([Row(2, (engine.limits.start_token,), 0)])
    outrun = engine.begin_encode(2, long, cores=Cores.ONE)
    engine.begin_encode(2, short, cores=Cores.ONE).finish()
    outrun.finish()
    (prediction,) = engine.decode([Row(2, (engine.limits.start_token, *expected), 0)])
    assert prediction.tokens.tolist() == [*expected, engine.limits.end_token]
    engine.free(2)


def test_slots_keep_their_audio_while_the_caches_are_laid_out_anew(fp32, clips):
    """Longer clips make every slot larger; a lone row makes them smaller again."""
    engine: OnnxClipEngine = fp32.engine
    by_length = [Clip(clip.samples) for clip in sorted(clips, key=lambda clip: len(clip.samples))]
    expected = [greedy.decode(engine, clip).tokens for clip in (by_length[0], by_length[-1])]
    for _ in range(2):
        engine.encode([1], [by_length[0]])
        engine.encode([0], [by_length[-1]])
        rows = [Row(1, (engine.limits.start_token, *expected[0]), 0), Row(0, (engine.limits.start_token, *expected[1]), 0)]
        for prediction, tokens in zip(engine.decode(rows), expected, strict=True):
            assert np.array_equal(prediction.tokens, [*tokens, engine.limits.end_token])
        engine.free(0)
        (prediction,) = engine.decode([rows[0]])
        assert np.array_equal(prediction.tokens, [*expected[0], engine.limits.end_token])
        engine.free(1)
