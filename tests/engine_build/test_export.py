"""What was exported computes what Moonshine computes."""

import dataclasses
import errno
import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from benchmarks import transformers_model
from benchmarks.harness.accuracy import word_error_rate
from engine_build import build, checkpoint, export, graphs
from engine_build import writing_systems as scripts
from engine_build.checkpoint import TINY_MODEL, CheckpointError
from engine_build.graphs import GraphsMissing
from engine_build.options import BuildOptions, Stages
from engine_build.parameters import decoder_parameters, encoder_parameters
from runtime import audio
from runtime.audio import Clip
from runtime.engine import manifest, selection
from runtime.engine.manifest import NATIVE, ONNXRUNTIME
from runtime.engine.protocol import Row
from runtime.tokenizer import FILE_NAME
from tests import greedy
from tests.conftest import ENGINES
from tests.learned import LEARNED


@pytest.fixture(scope="module")
def reference() -> MoonshineForConditionalGeneration:
    """Moonshine Base in transformers, float32, from the same weights."""
    return transformers_model.load()


def cross_keys_and_values(model: MoonshineForConditionalGeneration, samples: np.ndarray) -> np.ndarray:
    """(layers, 2, heads, frames, head_dim) for one clip alone."""
    hidden = model.model.encoder(torch.tensor(samples)[None]).last_hidden_state
    heads = model.config.decoder_num_attention_heads

    def split(projected: torch.Tensor) -> np.ndarray:
        return projected.view(projected.shape[1], heads, -1).transpose(0, 1).numpy()

    attentions = [layer.encoder_attn for layer in model.model.decoder.layers]
    return np.stack([[split(each.k_proj(hidden)), split(each.v_proj(hidden))] for each in attentions])


@torch.inference_mode()
def test_encoder_equals_transformers_on_single_clips(reference, built, clips):
    session = onnxruntime.InferenceSession(str(built("fp32") / "encoder.onnx"))
    for clip in clips[:6]:
        samples = audio.to_float(Clip(clip.samples))
        cross_kv, frames = session.run(None, {"audio": samples[None], "lengths": np.array([len(samples)])})
        assert frames[0] == cross_kv.shape[4] == audio.count_frames(len(samples))
        assert np.abs(cross_kv[:, :, 0] - cross_keys_and_values(reference, samples)).max() < 1e-3, clip.name


@torch.inference_mode()
def test_decoder_equals_transformers_token_by_token(reference, fp32, clips, recordings):
    """The same tokens on every clip and sample, and their log-probabilities within 1e-3."""
    forbidden = forbidden_tokens("moonshine-base-onnxruntime-fp32")
    for clip in [*clips, recordings["short"], recordings["mid"]]:
        assert_equals_transformers(reference, fp32.engine, Clip(clip.samples[: 20 * audio.SAMPLE_RATE]), forbidden)


@torch.inference_mode()
@pytest.mark.parametrize("target", ["onnxruntime", "native"])
def test_a_second_checkpoint_equals_transformers(target, clips, recordings):
    """Moonshine Tiny, from another package in another format."""
    assert build.main(["--model", TINY_MODEL, "--target", target, "--precision", "fp32", "--out", str(ENGINES)]) == 0
    choice = selection.choose(ENGINES, TINY_MODEL, "fp32", target)
    engine, tokenizer, _ = selection.open_engine(choice, max_batch=2)
    reference, forbidden = transformers_model.load(TINY_MODEL), forbidden_tokens(f"moonshine-tiny-{target}-fp32")
    for clip in [*clips, recordings["short"]]:
        assert_equals_transformers(reference, engine, Clip(clip.samples), forbidden)
    heard = greedy.decode(engine, Clip(recordings["short"].samples))
    assert word_error_rate([recordings["short"].text], [tokenizer.text(heard.tokens)]) <= 10
    engine.close()


def forbidden_tokens(directory: str) -> torch.Tensor:
    """bool (vocabulary,): what an English engine never says."""
    pieces = json.loads((ENGINES / directory / FILE_NAME).read_text())
    return torch.tensor(scripts.forbidden_tokens(pieces, scripts.LATIN))


def assert_equals_transformers(model, engine, clip: Clip, forbidden: torch.Tensor) -> None:
    decoding = greedy.decode(engine, clip)
    inputs = torch.tensor([[1, *decoding.tokens]])  # the end bias changes no clip that begins with speech
    logits = model(input_values=torch.tensor(audio.to_float(clip))[None], decoder_input_ids=inputs).logits[0]
    logits = logits.masked_fill(forbidden, -torch.inf)
    expected = logits.argmax(dim=-1).tolist()
    assert expected[:-1] == decoding.tokens and expected[-1] == 2
    log_probs = logits.log_softmax(dim=-1).amax(dim=-1)[:-1].numpy()
    assert np.abs(log_probs - decoding.log_probs).max() < 1e-3


def test_a_padded_batch_equals_its_rows_alone(built, clips):
    """Eight clips of mixed lengths in one batch, padded with anything but zeros, against each of them alone."""
    session = onnxruntime.InferenceSession(str(built("fp32") / "encoder.onnx"))
    rows = [audio.to_float(Clip(clip.samples)) for clip in clips[:8]]
    longest = max(map(len, rows))
    batch = np.random.default_rng(0).uniform(-1, 1, (len(rows), longest)).astype(np.float32)
    for padded, row in zip(batch, rows, strict=True):
        padded[: len(row)] = row
    together, frames = session.run(None, {"audio": batch, "lengths": np.array(list(map(len, rows)))})
    for index, row in enumerate(rows):
        alone, _ = session.run(None, {"audio": row[None], "lengths": np.array([len(row)])})
        assert frames[index] == alone.shape[4]
        assert np.abs(together[:, :, index, :, : frames[index]] - alone[:, :, 0]).max() < 1e-3, f"row {index}"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_rows_decoded_together_give_the_tokens_of_rows_alone(precision, request, clips):
    engine = request.getfixturevalue(precision).engine
    chosen = [Clip(clip.samples) for clip in clips[: engine.limits.max_batch]]
    alone = [greedy.decode(engine, clip).tokens for clip in chosen]
    for slot, clip in enumerate(chosen):
        engine.encode([slot], [clip])
    together = [[engine.limits.start_token] for _ in chosen]
    for position in range(max(map(len, alone)) + 1):
        rows = [Row(slot, (tokens[-1],), position) for slot, tokens in enumerate(together)]
        for tokens, prediction in zip(together, engine.decode(rows), strict=True):
            tokens.append(int(prediction.tokens[0]))
    for slot, expected in enumerate(alone):
        assert together[slot][1 : len(expected) + 2] == [*expected, engine.limits.end_token], f"row {slot}"
        engine.free(slot)


def make_checkpoint(directory) -> MoonshineForConditionalGeneration:
    """A small Moonshine with random weights, in the files of a hub checkpoint; the head geometry is Tiny's."""
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=512,
        hidden_size=288,
        intermediate_size=256,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=1,
        max_position_embeddings=64,
        partial_rotary_factor=0.9,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.9},
    )
    model = MoonshineForConditionalGeneration(config).eval()
    model.save_pretrained(directory)
    pieces = {f"▁w{token}": token for token in range(512)}
    tokenizer = {"model": {"vocab": pieces}, "added_tokens": [{"id": 2, "content": "</s>", "special": True}]}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


@torch.inference_mode()
def test_any_checkpoint_directory_can_be_built(tmp_path):
    model = make_checkpoint(tmp_path / "moonshine-little")
    name = str(tmp_path / "moonshine-little")
    options = ["--model", name, "--out", str(tmp_path), "--precision", "fp32", "--max-batch", "2"]
    assert build.main(options) == 0
    engine, tokenizer, built = selection.open_engine(selection.choose(tmp_path, name, "fp32"), max_batch=2)
    assert (built.dim, built.heads, built.decoder_layers, built.max_positions) == (288, 8, 1, 64)
    samples = np.random.default_rng(0).integers(-8000, 8000, 20_000, dtype=np.int16)
    engine.encode([1], [Clip(samples)])
    fed = (1, 17, 300, 44)
    prediction = engine.decode([Row(1, fed, 0)])[0]
    inputs = {"input_values": torch.tensor(audio.to_float(Clip(samples)))[None], "decoder_input_ids": torch.tensor([fed])}
    expected = model(**inputs).logits[0].log_softmax(dim=-1)
    assert prediction.tokens.tolist() == expected.argmax(dim=-1).tolist()
    assert np.abs(prediction.log_probs - expected.amax(dim=-1).numpy()).max() < 1e-3
    assert tokenizer.text([17, 2, 300]) == "w17 w300"
    assert build.main(options) == 0
    again = manifest.load(selection.choose(tmp_path, name, "fp32").directory, name, "onnxruntime", "fp32", 2)
    assert again == built, "an unchanged request builds nothing"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda directory: (directory / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda directory: (directory / "model.safetensors").write_bytes(b"\x10"), "not a readable Moonshine checkpoint"),
        (
            lambda directory: (directory / "config.json").write_text('{"model_type": "whisper"}'),
            "only 'moonshine' and 'moonshine_streaming' can be built",
        ),
    ],
)
def test_a_spoilt_checkpoint_is_named(tmp_path, spoil, complaint):
    make_checkpoint(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=complaint):
        checkpoint.load(str(tmp_path), say=print)


def test_weights_with_another_sum_are_refused(tmp_path):
    make_checkpoint(tmp_path)
    found = checkpoint.load(str(tmp_path), say=print)
    assert checkpoint.load(str(tmp_path), say=print, sha256=found.sha256).sha256 == found.sha256
    with pytest.raises(CheckpointError, match=f"have SHA-256 {found.sha256}, not abc"):
        checkpoint.load(str(tmp_path), say=print, sha256="abc")


def test_damaged_weights_of_the_package_are_named(monkeypatch):
    package = dataclasses.replace(checkpoint.PACKAGES[checkpoint.DEFAULT_MODEL], sha256="another sum")
    with pytest.raises(CheckpointError, match="moonshine-cpp==0.1.4 are damaged: pip install"):
        checkpoint.load_package(checkpoint.DEFAULT_MODEL, package)


def test_auto_builds_for_onnx_runtime_where_the_native_engine_cannot_be_built(tmp_path, capsys, monkeypatch):
    make_checkpoint(tmp_path / "little")
    monkeypatch.setenv("CXX", "false")  # a compiler that fails
    assert build.main(["--model", str(tmp_path / "little"), "--out", str(tmp_path), "--precision", "int8"]) == 0
    said = capsys.readouterr().err
    assert "false cannot compile the native engine" in said and "building for onnxruntime instead" in said
    assert selection.choose(tmp_path, str(tmp_path / "little"), "int8").target == ONNXRUNTIME


@pytest.mark.parametrize("target", [NATIVE, ONNXRUNTIME])
def test_without_torch_the_native_engine_of_another_shape_is_built_untried(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "engine_build.export", None)
    weights = checkpoint.load(str(LEARNED), say=print)
    options = BuildOptions(str(LEARNED), target, "fp32", LEARNED, 8, None, force=False)
    built = build.describe(options, weights, ())
    if target == NATIVE:
        assert build.tokens_to_know(weights, built, Stages.silent()) == ()
        return
    with pytest.raises(GraphsMissing, match="building it needs torch"):
        build.tokens_to_know(weights, built, Stages.silent())


def test_the_graphs_equal_a_fresh_export():
    """In the precision that has the most of its own; scripts/make_graphs.py writes them all."""
    stored, fresh = (give(checkpoint.TINY_CONFIG, "bf16") for give in (graphs.stored, export.graphs))
    assert stored.keys() == fresh.keys() == set(graphs.FILES)
    for name in graphs.FILES:
        assert stored[name].SerializeToString(deterministic=True) == fresh[name].SerializeToString(deterministic=True), name


@pytest.mark.parametrize(
    ("folder", "precision"),
    [
        (folder, precision)
        for folder, config in graphs.SHAPES.items()
        for precision in graphs.precisions_of(config)
        if not folder.startswith(("streaming-small", "streaming-medium"))  # which take gigabytes to make up
    ],
)
def test_every_parameter_has_its_place_in_a_graph(folder, precision):
    """All that a checkpoint brings is used, and nothing is left empty."""
    weights = export.made_up(graphs.SHAPES[folder])
    used = {name: set() for name in graphs.FILES}
    for name, model in graphs.stored(weights.config, precision).items():
        used[name] = {each.name.partition(":")[0] for each in model.graph.initializer if graphs.is_parameter(each)}
        assert all("/" not in each for each in used[name]), "no path of whoever wrote it"
    assert used["encoder.onnx"] == encoder_parameters(weights).keys()
    assert used["decoder.onnx"] == decoder_parameters(weights).keys()
    assert used["aligner.onnx"] < decoder_parameters(weights).keys()


@torch.inference_mode()
def test_a_fine_tuned_checkpoint_of_the_same_shape_needs_no_torch(tmp_path, clips, monkeypatch):
    """Base with its last weights changed, as training leaves it; computed beside transformers with the same weights."""
    reference = transformers_model.load()
    for parameter in (*reference.model.decoder.layers[-1].mlp.parameters(), reference.model.encoder.layer_norm.weight):
        parameter.mul_(1.01)
    directory = tmp_path / "moonshine-mine"
    reference.save_pretrained(directory)
    pieces = json.loads((ENGINES / "moonshine-base-onnxruntime-fp32" / FILE_NAME).read_text())
    vocabulary = {piece or f"<unused {token}>": token for token, piece in enumerate(pieces)}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    monkeypatch.setattr(graphs, "exported", None)
    assert build.main(["--model", str(directory), "--out", str(tmp_path), "--precision", "fp32", "--target", "onnxruntime"]) == 0
    engine, _, _ = selection.open_engine(selection.choose(tmp_path, str(directory), "fp32", "onnxruntime"), max_batch=1)
    for clip in clips[:3]:
        assert_equals_transformers(reference, engine, Clip(clip.samples), torch.zeros(len(pieces), dtype=torch.bool))
    engine.close()


def test_a_shape_without_graphs_needs_torch_and_says_so(tmp_path, capsys, monkeypatch):
    make_checkpoint(tmp_path / "little")
    monkeypatch.setitem(sys.modules, "engine_build.export", None)
    assert build.main(["--model", str(tmp_path / "little"), "--out", str(tmp_path), "--target", "onnxruntime"]) == 1
    assert "another shape than those whose graphs are here: building it needs torch" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["little"], "nothing half made is left"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop("model.encoder.conv2.bias"), "model.encoder.conv2.bias is missing"),
        (
            lambda tensors: tensors.update({"model.decoder.norm.weight": np.zeros(7, np.float32)}),
            r"model.decoder.norm.weight has the shape \(7,\), not \(288,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, complaint):
    weights = export.made_up(checkpoint.TINY_CONFIG)
    change(weights.tensors)
    with pytest.raises(CheckpointError, match=complaint):
        graphs.models(weights, "fp32")


def test_half_precisions_build_float32_and_say_so(tmp_path, capsys):
    make_checkpoint(tmp_path / "little")
    options = ["--model", str(tmp_path / "little"), "--out", str(tmp_path), "--precision", "fp16", "--target", "onnxruntime"]
    assert build.main(options) == 0
    printed = capsys.readouterr()
    assert "computes fp16 in fp32" in printed.err
    assert printed.out.strip() == str(tmp_path / "little-onnxruntime-fp32")


def test_the_manifest_says_where_the_weights_came_from(built):
    found = manifest.Manifest.model_validate_json((built("int8") / "manifest.json").read_bytes())
    assert (found.model, found.precision, found.dim) == (checkpoint.DEFAULT_MODEL, "int8", 416)
    assert found.max_batch == manifest.ANY_BATCH, "int8 of ONNX Runtime is not compiled for batches of one size"
    assert found.weights_source and len(found.weights_sha256) == 64
    assert {"numpy", "onnx", "onnxruntime", "python"} <= found.versions.keys()


class Hub:
    """What snapshot_download finds: nothing in the cache, and on the hub the models that are named."""

    def __init__(self, models, directory):
        self.asked, self._models, self._directory = [], models, directory

    def __call__(self, name, revision, allow_patterns, local_files_only):
        self.asked.append((name, local_files_only))
        if local_files_only or name not in self._models:
            raise OSError("not here")
        return str(self._directory)


@pytest.fixture
def hub_with(monkeypatch, tmp_path):
    def provide(*models: str) -> Hub:
        make_checkpoint(tmp_path / "snapshot")
        hub = Hub(models, tmp_path / "snapshot")
        monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
        monkeypatch.setattr(checkpoint, "why_no_hub", lambda: "")
        return hub

    return provide


def test_a_model_is_found_under_its_organisations_other_name(hub_with):
    hub_with("moonshine-ai/moonshine-base-es")
    found = checkpoint.load("UsefulSensors/moonshine-base-es", say=print)
    assert found.source == "hub moonshine-ai/moonshine-base-es at snapshot" and found.model == "UsefulSensors/moonshine-base-es"


def test_a_model_that_nobody_has_is_named(hub_with):
    hub_with()
    with pytest.raises(
        CheckpointError, match="'somebody/else' is no directory, the local cache does not have it, and the model hub"
    ):
        checkpoint.load("somebody/else", say=print)


def test_without_a_hub_the_package_is_used_and_nothing_is_waited_for(hub_with, monkeypatch):
    hub, lines = hub_with("UsefulSensors/moonshine-base"), []
    monkeypatch.setattr(checkpoint, "why_no_hub", lambda: "no model hub is within reach")
    checkpoint.load("moonshine-ai/moonshine-base", say=lines.append)
    assert all(local for _, local in hub.asked), "only the cache was asked"
    assert lines == ["no model hub is within reach: using the weights in package moonshine-cpp 0.1.4 (int8 per tensor)"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "no model hub is within reach"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:2"}, ""),
    ],
)
def test_whether_a_hub_can_be_asked_is_found_out_first(monkeypatch, variables, reason):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert checkpoint.why_no_hub() == reason


def raising(error: BaseException):
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "weights.npz"),
            "no space left on device: weights.npz; --out names another",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "engines"),
            "permission denied: engines; --out names another directory",
        ),
        (KeyboardInterrupt(), "it was interrupted; nothing half made is left"),
    ],
)
def test_a_build_that_does_not_end_says_why_and_leaves_what_was_there(tmp_path, capsys, monkeypatch, error, complaint):
    make_checkpoint(tmp_path / "little")
    options = ["--model", str(tmp_path / "little"), "--out", str(tmp_path), "--precision", "fp32", "--target", "onnxruntime"]
    assert build.main(options) == 0
    before = (tmp_path / "little-onnxruntime-fp32" / "manifest.json").read_text()
    monkeypatch.setattr("engine_build.onnxruntime_target.write", raising(error))
    capsys.readouterr()
    assert build.main([*options, "--force"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("build failed: ") and complaint in last
    assert (tmp_path / "little-onnxruntime-fp32" / "manifest.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["little", "little-onnxruntime-fp32"]


def test_weights_that_are_no_numbers_are_refused(tmp_path, capsys):
    model = make_checkpoint(tmp_path / "little")
    model.model.encoder.layer_norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "little")
    options = ["--model", str(tmp_path / "little"), "--out", str(tmp_path), "--precision", "fp32", "--target", "onnxruntime"]
    assert build.main(options) == 1 and "they predict what is no number" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_named(tmp_path):
    make_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a readable Moonshine checkpoint"):
        checkpoint.load(str(tmp_path), say=print)
