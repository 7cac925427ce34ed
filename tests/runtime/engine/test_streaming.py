"""Engines of streaming models beside transformers, with random weights: any pieces of audio give what one pass over it gives."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_build import build, native_target, parameters, tensorrt_target
from engine_build.checkpoint import CheckpointError
from engine_build.options import BuildError, BuildOptions, Stages, UnsupportedModel
from engine_build.streaming_model import StreamingEncoder
from runtime.audio import Clip, to_float
from runtime.engine import manifest, selection
from runtime.engine.manifest import NATIVE, ONNXRUNTIME, TENSORRT, TORCH
from runtime.engine.protocol import Engine, Row
from runtime.engine.stream_steps import Steps
from tests import streaming_models
from tests.streaming_models import ODD, open_built, save_random

TOKENS = (1, *range(500, 520))
ENGINES = {
    "native fp32": (NATIVE, "fp32"),
    "native bf16": (NATIVE, "bf16"),
    "native int8": (NATIVE, "int8"),
    "onnxruntime fp32": (ONNXRUNTIME, "fp32"),
    "onnxruntime int8": (ONNXRUNTIME, "int8"),
    "torch fp32": (TORCH, "fp32"),
}
EXACT = ("native fp32", "onnxruntime fp32", "torch fp32")
ROUNDED = {"native bf16": 0.02, "native int8": 0.06, "onnxruntime int8": 0.06}
"""Largest difference of log-probabilities from float32's."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models") / "odd"


@pytest.fixture(scope="module")
def model(directory):
    return save_random(ODD, directory)


@pytest.fixture(scope="module")
def engines(model, directory) -> Iterator[dict[str, Engine]]:
    opened = {name: open_built(directory, *kind) for name, kind in ENGINES.items()}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.fixture(params=ENGINES)
def name(request) -> str:
    return request.param


@pytest.fixture
def engine(name, engines) -> Engine:
    return engines[name]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """float32, with a loudness that changes as that of speech does."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0, 0.3, samples // 800 + 1), 800)[:samples]
    return (random.standard_normal(samples) * loudness).astype(np.float32)


def heard(engine: Engine, slot: int) -> np.ndarray:
    return engine.decode([Row(slot, TOKENS, 0)])[0].log_probs


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("samples", [80, 400, 3000, 16_037, 50_000])
def test_float32_equals_transformers(engine, model, samples):
    audio = noise(samples)
    expected = streaming_models.log_probs(model, audio, TOKENS)
    engine.reset(0)
    engine.append([0], [audio])
    found = engine.decode([Row(0, TOKENS, 0)])[0]
    assert found.tokens.tolist() == expected.argmax(axis=1).tolist()
    assert np.abs(found.log_probs - expected.max(axis=1)).max() < 1e-4


@pytest.mark.parametrize("name", EXACT)
def test_greedy_decoding_gives_the_tokens_of_transformers(engine, model):
    audio, said = noise(40_000, seed=3), [1]
    engine.reset(0)
    engine.append([0], [audio])
    for position in range(8):
        said.append(int(engine.decode([Row(0, (said[-1],), position)])[0].tokens[0]))
    assert said[1:] == streaming_models.greedy(model, audio, most=8)


@pytest.mark.parametrize("name", ROUNDED)
def test_other_precisions_are_near_float32(name, engines):
    audio, found = noise(60_000, seed=1), []
    for engine in (engines[name], engines["native fp32"]):
        engine.reset(0)
        engine.append([0], [audio])
        found.append(heard(engine, 0))
    assert np.abs(found[0] - found[1]).max() < ROUNDED[name]


@settings(max_examples=8)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=8), st.integers(0, 1000))
def test_the_pieces_that_audio_comes_in_change_nothing(engines, pieces, seed):
    audio = noise(sum(pieces) + 80, seed)
    for name, engine in engines.items():
        engine.reset(0)
        engine.append([0], [audio])
        engine.reset(1)
        begin = 0
        for count in (80, *pieces):
            engine.append([1], [audio[begin : begin + count]])
            begin += count
        if name.startswith("native"):
            assert (heard(engine, 0) == heard(engine, 1)).all(), f"{name}: not a bit"
        else:
            assert np.allclose(heard(engine, 0), heard(engine, 1), atol=ROUNDED.get(name, 1e-4)), name


def test_samples_that_come_one_by_one_change_nothing(engine, name):
    audio = noise(700, seed=7)
    engine.reset(0)
    engine.append([0], [audio])
    engine.reset(1)
    engine.append([1], [audio[:80]])
    for index in range(80, len(audio)):
        engine.append([1], [audio[index : index + 1]])
    assert np.allclose(heard(engine, 0), heard(engine, 1), atol=0 if name.startswith("native") else ROUNDED.get(name, 1e-4))


def test_streams_encoded_together_equal_streams_alone(engine, name):
    """Of any length, some of them longer than what they are encoded beside."""
    audios = [noise(length, seed) for seed, length in enumerate((12_000, 80, 333, 40_000, 1600))]
    for slot in range(5):
        engine.reset(slot)
    engine.append(range(5), [audio[: len(audio) // 2 + 40] for audio in audios])
    engine.append(range(5), [audio[len(audio) // 2 + 40 :] for audio in audios])
    together = engine.decode([Row(slot, TOKENS, 0) for slot in range(5)])
    for slot, audio in enumerate(audios):
        engine.reset(7)
        engine.append([7], [audio])
        assert np.allclose(
            heard(engine, 7), together[slot].log_probs, atol=0 if name.startswith("native") else ROUNDED.get(name, 1e-4)
        )


def test_a_clip_that_continues_another_costs_what_is_new_and_gives_the_same(engine, name, monkeypatch):
    pcm = (noise(48_000, seed=2) * 20_000).astype(np.int16)
    given_samples: list[int] = []
    append = engine.append
    monkeypatch.setattr(
        engine, "append", lambda slots, samples: (given_samples.extend(map(len, samples)), append(slots, samples))[1]
    )
    engine.free(0)
    for end in (9000, 9000, 20_001, 48_000):
        engine.encode([0], [clip_until(pcm, end)])
    assert given_samples == [9000, 11_001, 27_999], "what came twice is encoded once"
    engine.free(1)
    engine.encode([1], [clip_until(pcm, 48_000)])
    assert np.allclose(heard(engine, 0), heard(engine, 1), atol=0 if name.startswith("native") else ROUNDED.get(name, 1e-4))


def test_a_clip_that_does_not_continue_another_takes_its_place(engine, name):
    pcm = (noise(30_000, seed=4) * 20_000).astype(np.int16)
    engine.free(0)
    engine.encode([0], [clip_until(pcm, 30_000)])
    louder = dataclasses.replace(clip_until(pcm, 20_000), gains=(2.0,))
    engine.encode([0], [louder])
    engine.free(1)
    engine.encode([1], [louder])
    assert np.allclose(heard(engine, 0), heard(engine, 1), atol=0 if name.startswith("native") else ROUNDED.get(name, 1e-4))


def clip_until(pcm: np.ndarray, end: int) -> Clip:
    return Clip(pcm[:end], 0, ((0, end),), gains=(1.0,))


@pytest.mark.parametrize("samples", [0, 1, 79, 80, 81, 895])
def test_audio_however_short_is_encoded(engine, samples):
    engine.free(0)
    engine.encode([0], [Clip(np.full(samples, 1000, np.int16))])
    assert np.isfinite(heard(engine, 0)).all()
    longer = Clip(np.full(2000, 1000, np.int16))
    engine.encode([0], [longer])
    engine.free(1)
    engine.encode([1], [longer])
    assert np.allclose(heard(engine, 0), heard(engine, 1), atol=2e-2)


def test_an_encode_that_fails_leaves_no_slot_that_claims_audio(engine, name, monkeypatch):
    pcm = (noise(20_000, seed=10) * 20_000).astype(np.int16)
    for slot in (0, 1):
        engine.free(slot)
        engine.encode([slot], [clip_until(pcm, 9000)])
    with monkeypatch.context() as patched:
        patched.setattr(engine, "append", lambda slots, samples: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            engine.encode([0, 1], [clip_until(pcm, 15_000)] * 2)
    with pytest.raises(ValueError, match="slot 0 holds no audio"):
        engine.decode([Row(0, (1,), 0)])
    engine.encode([0], [clip_until(pcm, 20_000)])
    engine.free(1)
    engine.encode([1], [clip_until(pcm, 20_000)])
    assert np.allclose(heard(engine, 0), heard(engine, 1), atol=0 if name.startswith("native") else ROUNDED.get(name, 1e-4))


def test_what_is_outside_the_limits_is_refused_by_name_and_changes_nothing(engine):
    engine.free(0)
    engine.encode([0], [Clip((noise(8000) * 20_000).astype(np.int16))])
    before = heard(engine, 0)
    too_long = Clip(np.zeros(engine.limits.max_samples + 1, np.int16))
    for slots, clips, complaint in (([8], [too_long], "slot 8 is outside"), ([0], [too_long], "the engine holds")):
        with pytest.raises(ValueError, match=complaint):
            engine.encode(slots, clips)
    with pytest.raises(ValueError, match="slot 3 holds no audio"):
        engine.free(3)
        engine.decode([Row(3, (1,), 0)])
    assert (heard(engine, 0) == before).all()


@pytest.mark.parametrize("name", [name for name in ENGINES if not name.startswith("torch")])  # slow on a processor
def test_a_stream_holds_as_much_as_the_limits_say(engine, name):
    """In one piece, and in several."""
    pcm = (noise(engine.limits.max_samples, seed=9) * 20_000).astype(np.int16)
    for slot, ends in enumerate(((len(pcm),), (len(pcm) // 3, len(pcm)))):
        engine.free(slot)
        for end in ends:
            engine.encode([slot], [clip_until(pcm, end)])
    assert np.allclose(heard(engine, 0), heard(engine, 1), atol=0 if name.startswith("native") else ROUNDED.get(name, 1e-4))


def test_a_slot_that_was_cleared_is_as_good_as_new(engine, name):
    tolerance = 0 if name.startswith("native") else ROUNDED.get(name, 1e-4)
    pcm = (noise(20_000, seed=6) * 20_000).astype(np.int16)
    engine.free(0)
    engine.encode([0, 1], [clip_until(pcm, 20_000)] * 2)
    expected = heard(engine, 0)
    engine.clear(0)
    assert np.allclose(heard(engine, 1), expected, atol=tolerance), "its neighbour keeps what it holds"
    engine.encode([0], [clip_until(pcm, 20_000)])
    assert np.allclose(heard(engine, 0), expected, atol=tolerance)


def test_engines_align_tokens_alike(engines):
    pcm, shares = (noise(30_000, seed=8) * 20_000).astype(np.int16), []
    for name in EXACT:
        engines[name].free(0)
        engines[name].encode([0], [clip_until(pcm, 30_000)])
        shares += engines[name].align([0], [TOKENS[1:]]).result()
    for share in shares:
        assert share.shape == (len(TOKENS) - 1, 94), "50 frames in a second"
        assert np.abs(share - shares[0]).max() < 1e-4


def test_inclusive_windows_see_one_frame_more_on_each_side(model, directory, tmp_path):
    """As much as the windows of a configuration that says so, read as transformers does."""
    wider = tmp_path / "wider"
    wider.mkdir()
    for path in directory.iterdir():
        (wider / path.name).write_bytes(path.read_bytes())
    config = json.loads((wider / "config.json").read_text())
    config["encoder_config"]["sliding_windows"] = [
        [past + 1, future + 1] for past, future in ODD["encoder_config"]["sliding_windows"]
    ]
    (wider / "config.json").write_text(json.dumps(config))
    audio, found = noise(30_000, seed=5), []
    for path, options in ((directory, ("--windows", "inclusive")), (wider, ()), (directory, ())):
        engine = open_built(path, NATIVE, "fp32", *options)
        engine.reset(0)
        engine.append([0], [audio])
        found.append(heard(engine, 0))
        engine.close()
    assert (found[0] == found[1]).all() and not np.allclose(found[0], found[2], atol=1e-3)


def test_steps_give_each_sample_once_and_keep_what_is_no_whole_frame():
    steps, audio = Steps(), noise(40_000)
    given_audio: dict[int, list[np.ndarray]] = {3: [], 5: []}
    for begin, end in ((0, 79), (79, 80), (80, 900), (900, 40_000)):
        for slots, rows, counts in steps.of([3, 5], [audio[begin:end], audio[begin:end] * 2]):
            for slot, row, count in zip(slots, rows.reshape(len(slots), -1, 320), counts, strict=True):
                assert not row[count:].any()
                given_audio[slot].append(row[:count].ravel())
    whole = np.concatenate(given_audio[3])
    assert (whole[240:] == audio[: len(whole) - 240]).all() and len(audio) + 240 - len(whole) < 320
    assert (np.concatenate(given_audio[5]) == whole * 2).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoder_sliding_windows": [[16, 4]] * 4}, "sliding_windows has 4 windows for 5 layers"),
        ({"encoder_sliding_windows": [[0, 4]] * 5}, "a window of -1 and 3 frames"),
        ({"encoder_sliding_windows": [[60, 9]] * 5}, "a window of 59 and 8 frames; at most 64"),
        ({"num_key_value_heads": 2}, "num_key_value_heads 2; only 4 can be built"),
        ({"encoder_attention_bias": True}, "encoder_config.attention_bias True; only False"),
        ({"encoder_hidden_act": "relu"}, "encoder_config.hidden_act 'relu'; only 'gelu'"),
        ({"encoder_frame_ms": 10.0}, "encoder_config.frame_ms 10.0; only 5.0"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn'; only 'default'"),
        ({"head_dim": 26}, "only whole pairs can be built"),
        ({"vocab_size": None}, "gives vocabulary as None, which is no positive number"),
        ({"num_attention_heads": 0, "num_key_value_heads": 0, "head_dim": None}, "is not a readable Moonshine checkpoint"),
        ({"eos_token_id": [2, 3]}, "gives end_token as .2, 3., which is no positive number"),
        ({"max_position_embeddings": 300}, "300 positions, 6.0 s of audio; 14 s are needed"),
        ({"rope_parameters": "default"}, "is not a readable Moonshine checkpoint"),
        ({"encoder_config": {"hidden_size": 120}}, "is not a readable Moonshine checkpoint"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_by_name(model, directory, tmp_path, changes, complaint):
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    whole = changes.pop("encoder_config", None)
    for field, value in changes.items():
        part = config["encoder_config"] if field.startswith("encoder_") else config
        part[field.removeprefix("encoder_")] = value
    config["encoder_config"] = whole or config["encoder_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=complaint):
        streaming_models.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["model.encoder.layers.3.mlp.fc1.bias", "model.decoder.pos_emb.weight", "model.decoder.proj.weight"]
)
def test_a_tensor_that_is_missing_or_misshapen_is_refused_by_name(model, directory, name):
    weights = streaming_models.load_checkpoint(directory)
    for tensor, complaint in ((None, "is missing"), (np.zeros((3, 3), np.float32), "has the shape")):
        tensors = (
            weights.tensors | {name: tensor} if tensor is not None else {k: v for k, v in weights.tensors.items() if k != name}
        )
        damaged = dataclasses.replace(weights, tensors=tensors)
        with pytest.raises(CheckpointError, match=f"{name} {complaint}"):
            parameters.encoder_parameters(damaged)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoder_dim": 1040}, "up to 1024 numbers; the encoder's width is 1040"),
        ({"dim": 1040}, "up to 1024 numbers; the decoder's width is 1040"),
        ({"mlp_dim": 161}, "whole vectors of 16; the decoder's MLP is 161: --target onnxruntime"),
    ],
)
def test_a_model_that_the_native_engine_does_not_take_is_refused_in_one_line(model, directory, changes, complaint):
    config = streaming_models.load_checkpoint(directory).config
    with pytest.raises(BuildError, match=complaint):
        native_target.check_widths(dataclasses.replace(config, **changes))


def test_tensorrt_refuses_a_streaming_model_and_names_the_engine_that_runs_it(model, directory):
    weights = streaming_models.load_checkpoint(directory)
    options = BuildOptions(str(directory), TENSORRT, "fp16", directory, 8, None, force=False)
    with pytest.raises(
        UnsupportedModel, match="a streaming model, which TensorRT's engine does not run yet; --target torch does"
    ):
        tensorrt_target.write(options, weights, build.describe(options, weights, ()), directory, Stages.silent())


def test_an_engine_of_torch_serves_where_tensorrt_is_the_best_but_is_not_built(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "detect_target", lambda flavour=None: TENSORRT)
    assert selection.choose(tmp_path, "some/model", None).target == TENSORRT, "nothing is built: what would be"
    (tmp_path / "model-torch-fp16").mkdir()
    (tmp_path / "model-torch-fp16" / manifest.FILE_NAME).touch()
    assert selection.choose(tmp_path, "some/model", None).target == TORCH


def test_clips_are_compared_by_what_is_heard():
    pcm = np.arange(1000, dtype=np.int16)
    grown = Clip(pcm, 50, ((60, 100), (200, 300)), gains=(1.0, 2.0))
    longer = Clip(pcm, 50, ((60, 100), (200, 400), (500, 600)), gains=(1.0, 2.0, 1.0))
    assert longer.continues(grown) and grown.continues(grown) and not grown.continues(longer)
    for other in (
        dataclasses.replace(longer, gains=(1.0, 3.0, 1.0)),
        dataclasses.replace(longer, ranges=((61, 100), (200, 400), (500, 600))),
        dataclasses.replace(longer, ranges=((60, 101), (200, 400), (500, 600))),
        dataclasses.replace(longer, ranges=((60, 100), (200, 299), (500, 600))),
        dataclasses.replace(longer, pcm=pcm + 1),
        dataclasses.replace(longer, position=51),
    ):
        assert not other.continues(grown)
    assert Clip(pcm[:600], 7).continues(Clip(pcm[:500], 7)) and not Clip(pcm[1:600], 7).continues(Clip(pcm[:500], 7))
    assert (longer.samples_from(70) == longer.samples[70:]).all() and len(longer.samples_from(340)) == 0
    assert (to_float(longer, 70, 80) == to_float(longer, 0, 80)[70:]).all(), "the dither goes on, too"


@given(st.data())
def test_a_clip_continues_each_of_its_beginnings(data):
    limits = sorted(data.draw(st.sets(st.integers(50, 1000), min_size=2, max_size=8)))
    ranges = tuple(zip(limits[::2], limits[1::2], strict=False))
    pcm = np.random.default_rng(0).integers(-999, 999, 1000).astype(np.int16)
    changes = data.draw(st.sampled_from([{}, {"offset": 3, "gain": 2.0, "quiet_before": 20, "quiet_behind": 30}]))
    gains = data.draw(st.sampled_from([None, (1.0, 2.0, 0.5, 3.0)[: len(ranges)]])) if not changes else None
    clip = data.draw(st.sampled_from([Clip(pcm, 50), Clip(pcm, 50, ranges, gains=gains, **changes)]))
    count = data.draw(st.integers(clip.quiet_before + 1, clip.sample_count))
    beginning = clip.beginning(count)
    assert clip.continues(beginning) and np.array_equal(beginning.samples, clip.samples[:count])


def test_the_size_of_a_stream_s_state_is_that_of_its_parts(model, directory):
    """It is computed without torch for the manifest, and again by the network."""
    config = streaming_models.load_checkpoint(directory).config
    assert config.state_size == sum(part.size for part in StreamingEncoder(config).parts)
