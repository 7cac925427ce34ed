"""What only a GPU can show: engines on the device keep what they promise. Also run by scripts/gpu_check.sh."""

import queue

import numpy as np
import pytest

from benchmarks.harness.accuracy import word_error_rate
from runtime import hardware
from runtime.audio import Clip
from runtime.engine import tensorrt_package
from runtime.engine.manifest import TENSORRT, TORCH, Manifest
from runtime.engine.protocol import CONTINUED, Row, TokenBiases
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Request
from runtime.scheduler.transcriber import Status
from runtime.tokenizer import Tokenizer
from server.stream.confidence import END_BIAS
from tests import float32, greedy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(hardware.find_gpu() is None, reason="needs an NVIDIA GPU, and the driver shows none"),
]

LARGEST_WER_DIFFERENCE = 0.3  # points
MAX_SECONDS = 13.0


# Target, precision, largest batch: what scripts/gpu_check.sh has built before.
ENGINES = [
    (TENSORRT, "fp16", 32),
    (TORCH, "fp16", 256),
    (TORCH, "bf16", 32),
    (TORCH, "fp32", 32),
    (TENSORRT, "int8", 8),
    (TENSORRT, "bf16", 8),
    (TENSORRT, "fp32", 8),
]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda each: "-".join(map(str, each)))
def engine(request, built):
    target, precision, max_batch = request.param
    if target == TENSORRT and tensorrt_package.find() is None:
        pytest.skip("no TensorRT is installed")
    directory = built(precision, target, "--max-batch", str(max_batch))
    found = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
    if target == TENSORRT:
        from runtime.engine.tensorrt_engine import open_tensorrt as open_engine
    else:
        from runtime.engine.torch_engine import open_torch as open_engine
    options = {} if target == TENSORRT or precision == "fp16" else {"compiles": False}  # each would take its minutes
    engine = open_engine(directory, found, max_batch, max_seconds=MAX_SECONDS, **options)
    engine.tokenizer = Tokenizer.load(directory)
    yield engine
    engine.close()


def rows_of(engine) -> int:
    """The most of one call."""
    return engine.limits.max_batch // engine.limits.slot_groups


def test_every_shape_is_captured_and_nothing_is_allocated_while_serving(engine, clips):
    before, most = engine.uncaptured_runs, rows_of(engine)
    for batch in sorted({1, 3, 24, min(40, most), most - 1, most}):
        chosen = [Clip(clips[index % len(clips)].samples[: 12 * 16_000]) for index in range(batch)]
        engine.encode(list(range(batch)), chosen)
        engine.decode([Row(slot, (1, *range(500, 500 + slot)), 0) for slot in range(batch)])
        engine.decode([Row(slot, (CONTINUED,), 1 + slot) for slot in range(batch)])
    for slot in range(most):
        engine.free(slot)
    assert engine.captured_shapes and engine.uncaptured_runs == before == 0


def test_words_are_those_of_float32(engine, clips):
    known = float32.read()
    short = [clip for clip in clips if len(clip.samples) <= engine.limits.max_samples]
    expected = [known[clip.name].tokens for clip in short]
    found = [greedy.decode(engine, Clip(clip.samples)).tokens for clip in short]
    references = [clip.text for clip in short]
    rates = [word_error_rate(references, [engine.tokenizer.text(each) for each in tokens]) for tokens in (expected, found)]
    print(
        f"{engine.name}: WER {rates[1]:.2f}%, float32 {rates[0]:.2f}%; same tokens on "
        f"{sum(map(np.array_equal, expected, found))} of {len(short)}"
    )
    assert abs(rates[1] - rates[0]) <= LARGEST_WER_DIFFERENCE


def test_a_batch_equals_its_rows_alone(engine, clips):
    """Every batch profile: the same first tokens, and log-probabilities as near as half precision has them."""
    chosen = [Clip(clips[index % len(clips)].samples[: (12 - index % 7) * 16_000]) for index in range(rows_of(engine))]
    furthest = 0.0
    for batch in (batch for batch in (2, 4, 8, 20, 50, 100) if batch <= len(chosen)):
        engine.encode(list(range(batch)), chosen[:batch])
        together = engine.decode([Row(slot, (1, 400, 500), 0, END_BIAS) for slot in range(batch)])
        for slot in range(batch):
            engine.free(slot)
        for row in range(0, batch, max(1, batch // 8)):
            engine.encode([0], [chosen[row]])
            alone = engine.decode([Row(0, (1, 400, 500), 0, END_BIAS)])[0]
            engine.free(0)
            furthest = max(furthest, float(np.abs(alone.log_probs - together[row].log_probs).max()))
            assert np.abs(alone.log_probs - together[row].log_probs).max() < 0.05, f"row {row} of {batch}"
            assert alone.tokens[0] == together[row].tokens[0], f"row {row} of {batch}"
    print(f"{engine.name}: log-probabilities of a row alone and in a batch differ by {furthest:.4f} at most")


def test_steps_chained_on_the_device_equal_steps_through_the_host(engine, clips):
    clip = Clip(clips[0].samples[: 12 * 16_000])
    expected = greedy.decode(engine, clip).tokens[:8]
    engine.encode([5], [clip])
    pending = [engine.launch([Row(5, (1,), 0, END_BIAS)])]
    pending += [engine.launch([Row(5, (CONTINUED,), position)]) for position in range(1, len(expected))]
    assert [int(each.result()[0].tokens[0]) for each in pending] == expected
    engine.free(5)


def test_biases_of_some_rows_reach_no_other_whatever_the_graphs_before_left_in_the_table(engine, clips):
    """Every third row favours tokens of its own, other ones in each launch; the others are as without any."""
    count = rows_of(engine)
    engine.encode(list(range(count)), [Clip(clips[index % len(clips)].samples[: 6 * 16_000]) for index in range(count)])
    fed, words = (1, 400, 500), [token for token in range(1000, 20_000) if engine.tokenizer.starts_word(token)]
    words = [token for token in words if engine.tokenizer.text([token]).isascii()]
    plain = engine.decode([Row(slot, fed, 0, END_BIAS) for slot in range(count)])
    for launch in range(3):
        wanted = {slot: words[(launch * count + slot) * 3 :][:3] for slot in range(0, count, 3)}
        rows = [Row(slot, fed, 0, END_BIAS, tuple(map(favoured, wanted.get(slot, ())))) for slot in range(count)]
        for slot, (found, before) in enumerate(zip(engine.decode(rows), plain, strict=True)):
            assert found.tokens.tolist() == wanted.get(slot, before.tokens.tolist())
            assert slot in wanted or np.array_equal(found.log_probs, before.log_probs)
    again = engine.decode([Row(slot, fed, 0, END_BIAS) for slot in range(count)])
    assert all(np.array_equal(one.tokens, other.tokens) for one, other in zip(plain, again, strict=True))
    for slot in range(count):
        engine.free(slot)


def favoured(token: int) -> TokenBiases:
    return TokenBiases(np.array([token]), np.array([500.0], np.float32))


def test_words_are_heard_where_float32_hears_them(engine, clips):
    clip, known = clips[0], float32.read()[clips[0].name]
    assert len(clip.samples) <= engine.limits.max_samples
    found = float32.hear(engine, clip, slot=3)
    assert found.tokens == known.tokens
    assert np.abs(np.subtract(found.first_frames, known.first_frames)).max() <= 2, "frames of 24 ms"


def test_requests_beside_each_other_get_the_words_of_float32(engine, clips, monkeypatch):
    """Five times the clips at once: an encode of one group of slots beside the decode of another, whatever comes in between."""
    monkeypatch.setattr(type(engine), "close", lambda self: None)  # the loop's end is not the engine's
    loop = EngineLoop(engine, 0.0, Observer())
    short = [clip for clip in clips if len(clip.samples) <= engine.limits.max_samples] * 5
    known, answers = float32.read(), queue.SimpleQueue()
    loop.start()
    for number, clip in enumerate(short):
        draft = tuple(known[clip.name].tokens[: number % 7])
        asked = Request(number, str(number), Clip(clip.samples), draft, end_bias=END_BIAS, align=number % 3 == 0)
        loop.submit(asked, answers.put)
    results = [answers.get(timeout=60.0) for _ in short]
    by_number = {result.request.request_id: result for result in results}
    assert loop.status() is Status.READY
    loop.stop()
    expected = {result.request.request_id: known[short[result.request.request_id].name] for result in results}
    wrong = {number for number, heard in expected.items() if list(by_number[number].tokens) != heard.tokens}
    print(f"{engine.name}, {engine.limits.slot_groups} groups: {len(wrong)} of {len(short)} requests differ from float32")
    assert len(wrong) <= len(short) // 20, "near ties may fall the other way in half precision"
    for number in {number for number, result in by_number.items() if result.request.align} - wrong:
        assert np.abs(np.subtract(by_number[number].first_frames, expected[number].first_frames)).max() <= 2
