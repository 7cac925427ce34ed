"""TensorRT engines as far as they go without a GPU: every precision builds from the real weights and keeps the words."""

import dataclasses
import os
import queue

import numpy as np
import pytest

from benchmarks import tensorrt_probe
from benchmarks.harness.accuracy import word_error_rate
from engine_build import build, quantisation, tensorrt_target
from engine_build.options import BuildError, Stages
from runtime import hardware
from runtime.audio import SAMPLE_RATE, Clip
from runtime.engine import manifest, selection, tensorrt_package
from runtime.engine.cuda_graphs import CapturedShapes
from runtime.engine.manifest import DECODER_FILE, DECODER_PLAN, TENSORRT, Manifest
from runtime.engine.onnx_clip_engine import OnnxClipEngine
from runtime.engine.protocol import CONTINUED, Row
from runtime.engine.shapes import ENCODER_SECONDS, PLAN_NEW_TOKENS, Shape, shapes_up_to
from runtime.engine.tensorrt_engine import (
    check_device,
    check_version,
    load_plan,
    open_tensorrt,
    save_kernel_cache,
    why_refused,
)
from runtime.exceptions import DeviceError, EngineDirectoryError
from runtime.hardware import Gpu
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Request
from server.stream.confidence import END_BIAS
from tests import greedy
from tests.conftest import ENGINES, MODEL
from tests.engines import TENSORRT_BATCHES, open_torch_on_cpu, save_models
from tests.host_cuda import HostContext, HostCuda, HostKernels, HostTensorRt, HostTensorRtRtx, Late

H100 = Gpu("NVIDIA H100", "9.0", "13.0")
LARGEST_WER_DIFFERENCE = 0.3  # points; one word of the clips' 406 is 0.25
LARGEST_WER_DIFFERENCE_INT8 = 1.0
"""Rounded weights leave more near ties, which the order of a processor's sums tips: one word on AVX-512, three on AVX2."""


@pytest.fixture(scope="session")
def plans(tensorrt_plans):
    """The engine directory of a precision with its manifest."""

    def directory_of(precision: str):
        directory = tensorrt_plans(precision)
        return directory, Manifest.model_validate_json((directory / manifest.FILE_NAME).read_bytes())

    return directory_of


@pytest.mark.parametrize("precision", TENSORRT_BATCHES)
def test_every_precision_builds_and_the_manifest_says_what_was_built(plans, precision):
    directory, found = plans(precision)
    assert found == manifest.load(directory, MODEL, TENSORRT, precision, TENSORRT_BATCHES[precision]), "hashes fit"
    assert (found.target, found.precision, found.max_batch) == (TENSORRT, precision, TENSORRT_BATCHES[precision])
    assert {"encoder.plan", "decoder.plan", "aligner.plan", "tokenizer.json"} == found.files.keys()
    assert found.plans.flavour == "tensorrt-rtx" and found.plans.version == tensorrt_package.find("tensorrt-rtx").version
    asked = shapes_up_to(TENSORRT_BATCHES[precision], found.max_samples, found.max_positions, PLAN_NEW_TOKENS)
    assert list(found.plans.profiles) == asked


def test_there_is_a_profile_for_every_batch_length_and_block(plans):
    _, found = plans("fp16")
    asked = {("encoder", batch, int(seconds * SAMPLE_RATE)) for batch in (1, 2, 4, 8) for seconds in ENCODER_SECONDS}
    asked |= {("decoder", batch, new) for batch in (1, 2, 4, 8) for new in PLAN_NEW_TOKENS}
    assert {dataclasses.astuple(shape) for shape in found.plans.profiles} == asked


def test_an_unchanged_request_builds_nothing(plans, capsys):
    directory, before = plans("int8")
    options = ["--target", TENSORRT, "--precision", "int8", "--max-batch", "1", "--out", str(ENGINES)]
    assert build.main(options) == 0
    assert "nothing to build" in capsys.readouterr().err
    assert Manifest.model_validate_json((directory / manifest.FILE_NAME).read_bytes()).built_at == before.built_at


def test_int8_keeps_its_weights_in_int8(plans, tmp_path):
    """Half the bytes of fp16 where the same shapes were compiled; folded into fp16 they would be as many."""
    directory, found = plans("int8")
    weights = (directory / DECODER_PLAN).stat().st_size
    save_models("fp16", tmp_path)
    assert weights < 1.3 * (tmp_path / DECODER_FILE).stat().st_size, "three shapes of fp16 take twice the ONNX and more"


@pytest.fixture(scope="module")
def reference(fp32, clips):
    """Greedy decoding in float32: the tokens of every clip, and their word error rate."""
    tokens = [greedy.decode(fp32.engine, Clip(clip.samples)).tokens for clip in clips]
    texts = [fp32.tokenizer.text(each) for each in tokens]
    return tokens, word_error_rate([clip.text for clip in clips], texts)


def error_rate(engine, tokenizer, clips, drafts) -> float:
    """Drafts change no words and save most of the passes."""
    texts = []
    for clip, draft in zip(clips, drafts, strict=True):
        engine.encode([0], [Clip(clip.samples)])
        texts.append(tokenizer.text(greedy.decode_encoded(engine, Clip(clip.samples), draft).tokens))
        engine.free(0)
    return word_error_rate([clip.text for clip in clips], texts)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_tensorrt_compiles_keeps_the_words(plans, precision, reference, fp32, clips, tmp_path):
    """The very ONNX, run by ONNX Runtime."""
    _, found = plans(precision)
    save_models("fp16", tmp_path, quantisation.quantise_weights if precision == "int8" else lambda model: None)
    tokens, expected = reference
    found_rate = error_rate(OnnxClipEngine(tmp_path, found, max_batch=1), fp32.tokenizer, clips, tokens)
    print(f"WER {precision}: {found_rate:.2f}%, float32: {expected:.2f}%")
    assert abs(found_rate - expected) <= (LARGEST_WER_DIFFERENCE_INT8 if precision == "int8" else LARGEST_WER_DIFFERENCE)


def test_bfloat16_keeps_the_words(built, reference, clips):
    """Through torch: ONNX Runtime has no bfloat16 on a CPU."""
    opened = open_torch_on_cpu("bf16", built, max_batch=1)
    tokens, expected = reference
    found_rate = error_rate(opened.engine, opened.tokenizer, clips, tokens)
    print(f"WER bf16: {found_rate:.2f}%, float32: {expected:.2f}%")
    assert abs(found_rate - expected) <= LARGEST_WER_DIFFERENCE


def test_a_node_that_tensorrt_refuses_is_named(tmp_path):
    from onnx import TensorProto, helper, save

    node = helper.make_node("TextNormalise", ["tokens"], ["out"], name="a_node_of_our_own")
    tokens = helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4])
    model = helper.make_model(helper.make_graph([node], "odd", [tokens], [out]), opset_imports=[helper.make_opsetid("", 20)])
    save(model, tmp_path / "odd.onnx")
    with pytest.raises(BuildError, match=r"refuses odd\.onnx: node a_node_of_our_own \(TextNormalise\)"):
        tensorrt_target.compile_plan(
            tensorrt_package.find("tensorrt-rtx"), "odd.onnx", (tmp_path / "odd.onnx").read_bytes(), [], Stages.silent()
        )


def test_a_flavour_that_is_not_installed_is_named(capsys, built):
    if tensorrt_package.find("tensorrt"):
        pytest.skip("the data-centre TensorRT is installed")
    options = ["--target", TENSORRT, "--precision", "fp16", "--flavour", "tensorrt", "--out", str(ENGINES)]
    assert build.main(options) == 1
    assert "tensorrt is not installed" in capsys.readouterr().err


@pytest.mark.skipif(hardware.find_gpu() is not None, reason="there is a GPU, so nothing is missing")
def test_without_a_gpu_the_engine_does_not_open(plans):
    directory, found = plans("fp16")
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU"):
        open_tensorrt(directory, found, max_batch=8)


def test_plans_of_another_version_are_refused(plans):
    directory, found = plans("fp16")
    other = found.plans.model_copy(update={"version": "9.9.9"})
    with pytest.raises(EngineDirectoryError, match=r"built by tensorrt-rtx 9\.9\.9, installed is 1\..*build it again"):
        check_version(directory, other, tensorrt_package.find("tensorrt-rtx"))
    with pytest.raises(EngineDirectoryError, match="which is not installed"):
        check_version(directory, other, None)


@pytest.mark.parametrize(("capability", "fits"), [("8.0", True), ("8.9", True), ("12.0", True), ("9.0", False), ("7.5", False)])
def test_plans_run_on_the_compute_capabilities_they_are_for_and_on_none_between(plans, capability, fits):
    directory, found = plans("fp16")
    card = dataclasses.replace(H100, compute_capability=capability)
    if fits:
        check_device(directory, found.plans, card)
        return
    with pytest.raises(EngineDirectoryError, match=rf"8\.0, 8\.6, 8\.9, 12\.0.* has {capability}; .*ASR_TARGET=torch"):
        check_device(directory, found.plans, card)


def test_a_driver_that_is_too_old_is_named(plans):
    directory, found = plans("fp16")
    with pytest.raises(DeviceError, match=r"the driver serves CUDA 12\.8"):
        check_device(directory, found.plans, dataclasses.replace(H100, driver_cuda_version="12.8"))


def test_a_plan_that_cannot_be_read_is_refused_with_tensorrt_s_own_reasons(tmp_path):
    """Whatever else is wrong: without a GPU this is the driver, with one the plan."""
    trt = tensorrt_package.find("tensorrt-rtx").module
    path = tmp_path / "broken.plan"
    path.write_bytes(b"no plan" * 100)
    with pytest.raises(EngineDirectoryError, match=r"broken\.plan on this GPU \(INVALID"):
        load_plan(trt, trt.Runtime(trt.Logger(trt.Logger.ERROR)), path)


def test_every_diagnostic_is_named():
    trt = tensorrt_package.find("tensorrt-rtx").module

    class Runtime:
        def get_engine_validity(self, plan):
            return trt.EngineValidity.INVALID, 2 | 4

    assert why_refused(trt, Runtime(), b"") == "INVALID OLD_CUDA_DRIVER UNSUPPORTED_CC"
    assert why_refused(trt, object(), b"") == "no reason given"


@pytest.mark.parametrize("zeros", [False, True])
def test_the_probe_compares_numbers_and_takes_no_zeros(kernels, tmp_path, capsys, zeros, monkeypatch):
    path = tmp_path / "tiny.onnx"
    expected = tensorrt_probe.write_network(path)
    if zeros:
        monkeypatch.setattr(HostContext, "execute_async_v3", lambda self, stream: True)
    assert tensorrt_probe.runs_right(HostTensorRt, str(path).encode(), lambda: HostCuda(kernels), expected) is not zeros
    assert f"{0 if zeros else np.count_nonzero(expected)} of {expected.size} numbers are not zero" in capsys.readouterr().out


def test_the_probe_s_network_compiles(tmp_path):
    tensorrt_probe.write_network(tmp_path / "tiny.onnx")
    ranges = {"x": ((tensorrt_probe.ROWS, tensorrt_probe.INNER),) * 3}
    package = tensorrt_package.find("tensorrt-rtx")
    assert (
        len(tensorrt_target.compile_plan(package, "tiny.onnx", (tmp_path / "tiny.onnx").read_bytes(), [ranges], Stages.silent()))
        > 1000
    )


def test_plans_of_another_version_are_built_again(plans, monkeypatch):
    directory, found = plans("int8")
    request = build.BuildOptions(MODEL, TENSORRT, "int8", ENGINES, 1, None, force=False)
    assert tensorrt_target.is_current(request, found)
    newer = dataclasses.replace(tensorrt_package.find("tensorrt-rtx"), version="9.9.9")
    monkeypatch.setattr(tensorrt_package, "find", lambda flavour: newer)
    assert not tensorrt_target.is_current(request, found)


@pytest.mark.parametrize(
    ("capability", "flavour", "torch", "target"),
    [
        (None, "tensorrt-rtx", True, "onnxruntime"),
        ("8.9", "tensorrt-rtx", True, "tensorrt"),
        ("9.0", "tensorrt", True, "tensorrt"),
        ("9.0", "tensorrt-rtx", True, "torch"),
        ("9.0", "tensorrt-rtx", False, "onnxruntime"),
        ("9.0", None, True, "torch"),
        ("9.0", None, False, "onnxruntime"),
    ],
)
def test_the_target_is_the_best_that_this_machine_has(monkeypatch, capability, flavour, torch, target):
    monkeypatch.setattr(hardware, "find_gpu", lambda: capability and dataclasses.replace(H100, compute_capability=capability))
    package = flavour and tensorrt_package.TensorRt(flavour, "1.0", None)
    monkeypatch.setattr(tensorrt_package, "find", lambda asked=None: package)
    monkeypatch.setattr(selection, "torch_has_cuda", lambda: torch)
    assert selection.detect_target() == target


def test_a_truncated_plan_and_a_batch_over_the_profiles_are_refused(plans, tmp_path):
    directory, found = plans("int8")
    with pytest.raises(EngineDirectoryError, match="built for batches up to 1, not 8"):
        manifest.load(directory, MODEL, TENSORRT, "int8", max_batch=8)
    copied = tmp_path / directory.name
    copied.mkdir()
    for path in directory.iterdir():
        os.link(path, copied / path.name) if path.name != DECODER_PLAN else (copied / path.name).write_bytes(
            path.read_bytes()[:1_000_000]
        )
    with pytest.raises(EngineDirectoryError, match=r"decoder\.plan is missing or damaged"):
        manifest.load(copied, MODEL, TENSORRT, "int8", max_batch=1)


def test_streams_that_share_a_device_which_lags_behind_get_the_words_they_would_get_alone(open_on_host, kernels, clips):
    """Through the engine loop, with drafts of every kind: steps are planned before the answers to the last are in."""
    engine, _ = open_on_host(HostCuda(kernels, Late()), max_batch=4)
    chosen = [Clip(clip.samples[: 8 * SAMPLE_RATE]) for clip in clips[:9]]
    expected = [greedy.decode(engine, clip).tokens for clip in chosen]
    requests = []
    for index, (clip, tokens) in enumerate(zip(chosen, expected, strict=True)):
        draft = list(greedy.drafts_of(tokens).values())[index]
        requests.append(Request(index, f"s{index}", clip, draft=draft, end_bias=END_BIAS))
    answers = queue.SimpleQueue()
    loop = EngineLoop(engine, max_wait_seconds=0.0, observer=Observer())
    loop.start()
    for request in requests:
        loop.submit(request, answers.put)
    results = {result.request.request_id: result for result in (answers.get(timeout=120) for _ in requests)}
    loop.stop()
    assert [list(results[index].tokens) for index in range(len(chosen))] == expected


def test_everything_is_captured_and_allocated_at_start(open_on_host, kernels, clips):
    cuda = HostCuda(kernels)
    engine, device = open_on_host(cuda, max_batch=4, max_seconds=5.0, graphs=True)
    assert cuda.captured == len(device.shapes) == 3 * (2 + 3), "batches 1, 2, 4 of 2 and 5 s, and of 1, 8 and 64 tokens"
    assert engine.limits.max_samples == 5 * SAMPLE_RATE, "no larger than was asked for"
    allocated, captured = cuda.allocations, cuda.captured
    for batch in (1, 3, 4):
        slots = list(range(batch))
        engine.encode(slots, [Clip(clips[slot].samples[: 4 * SAMPLE_RATE]) for slot in slots])
        engine.decode([Row(slot, (1, *range(500, 500 + 40 * slot)), 0) for slot in slots])
        engine.decode([Row(slot, (CONTINUED,), 1 + 40 * slot) for slot in slots])
    assert (cuda.allocations, cuda.captured, engine.uncaptured_runs) == (allocated, captured, 0)
    engine.close()
    assert cuda.closed


def test_a_shape_without_a_graph_runs_all_the_same_and_is_counted():
    ran, small, large = [], Shape("decoder", 1, 1), Shape("decoder", 8, 64)
    captured = CapturedShapes(ran.append, capture=lambda shape: lambda: ran.append(("replay", shape)))
    captured.capture_all([small])
    captured.run(small)
    captured.run(large)
    assert ran == [("replay", small), large] and captured.uncaptured_runs == 1


def test_a_shape_that_cannot_be_captured_is_run_uncaptured():
    ran = []
    captured = CapturedShapes(ran.append, capture=lambda shape: None)
    captured.capture_all([Shape("decoder", 1, 1)])
    captured.run(Shape("decoder", 1, 1))
    assert ran == [Shape("decoder", 1, 1)] and captured.uncaptured_runs == 1


def test_the_largest_shape_is_captured_first():
    order = []
    shapes = shapes_up_to(4, max_samples=80_000, max_new=64)
    CapturedShapes(order.append, capture=lambda shape: order.append(shape) or (lambda: None)).capture_all(shapes)
    sizes = [shape.batch * shape.length for shape in order]
    assert sizes == sorted(sizes, reverse=True) and set(order) == set(shapes)


def test_tensorrt_for_rtx_compiles_kernels_once_and_an_unreadable_cache_is_begun_anew(open_on_host, kernels, clips):
    def open_it():
        engine, device = open_on_host(HostCuda(kernels), max_batch=1, max_seconds=5.0, trt=HostTensorRtRtx)
        return engine, device, device.kernel_cache_path

    engine, device, path = open_it()
    contexts = len(device.shapes) + 1  # the aligner's
    assert path.read_bytes() == HostKernels.HEAD + str(contexts).encode(), "kept for the next start"
    clip = Clip(clips[18].samples[: 4 * SAMPLE_RATE])
    said = greedy.decode(engine, clip).tokens
    engine.close()
    path.write_bytes(b"of something else")
    engine, _, _ = open_it()
    assert greedy.decode(engine, clip).tokens == said
    assert path.read_bytes().startswith(HostKernels.HEAD)
    path.unlink()


class KernelCache:
    """What TensorRT for RTX gives for a cache."""

    def __init__(self, said: bytes | None | Exception):
        self._said = said

    def serialize(self) -> bytes | None:
        if isinstance(self._said, Exception):
            raise self._said
        return self._said


@pytest.mark.parametrize(("said", "kept"), [(b"new", b"new"), (None, b"old"), (RuntimeError("no memory"), b"old")])
def test_kernels_are_kept_whole_or_not_at_all_and_never_stop_a_start(said, kept, tmp_path):
    path = tmp_path / "kernels.cache"
    path.write_bytes(b"old")
    save_kernel_cache(KernelCache(said), path)
    assert path.read_bytes() == kept and list(tmp_path.iterdir()) == [path]
    save_kernel_cache(KernelCache(said), tmp_path / "no such directory" / "kernels.cache")
