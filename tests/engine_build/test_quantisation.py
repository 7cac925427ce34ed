"""int8 products and convolutions for ONNX Runtime: near to float32, and the same for a row whatever is beside it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine_build import onnxruntime_target, quantisation
from engine_build.options import BuildOptions
from runtime import hardware
from runtime.engine import manifest, selection
from runtime.exceptions import EngineDirectoryError


def save_model(path, node: onnx.NodeProto, weights: dict[str, np.ndarray], shape: list) -> onnxruntime.InferenceSession:
    """A model of one node from x to y."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return onnxruntime.InferenceSession(str(path))


HERE = quantisation.LARGEST_WEIGHT if hardware.sums_int8_products_exactly() else quantisation.LARGEST_WEIGHT_WITHOUT_VNNI
"""What an engine for this processor is built with: with 8 bits the sums overflow where there is no VNNI."""


def quantised(tmp_path, largest_weight=HERE) -> onnxruntime.InferenceSession:
    model = onnx.load(tmp_path / "float.onnx")
    quantisation.quantise_products(model, largest_weight)
    onnx.save(model, tmp_path / "int8.onnx")
    return onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"))


@pytest.fixture
def product(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    whole = save_model(tmp_path / "float.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": weight}, [None, None, 64])
    return whole, quantised(tmp_path)


def test_a_row_is_the_same_to_the_last_bit_whatever_is_beside_it(product):
    _, int8 = product
    rows = np.random.default_rng(1).standard_normal((5, 7, 64)).astype(np.float32)
    rows[1] *= 1000  # would spoil a scale for the whole tensor
    together = int8.run(None, {"x": rows})[0]
    for index, row in enumerate(rows):
        assert np.array_equal(int8.run(None, {"x": row[None]})[0][0], together[index])


def test_products_are_near_to_those_of_floats(product):
    whole, int8 = product
    rows = np.random.default_rng(2).standard_normal((3, 9, 64)).astype(np.float32)
    expected = whole.run(None, {"x": rows})[0]
    assert np.abs(int8.run(None, {"x": rows})[0] - expected).max() < 0.02 * np.abs(expected).max()


def test_a_row_of_zeros_gives_zeros(product):
    assert not product[1].run(None, {"x": np.zeros((1, 2, 64), np.float32)})[0].any()


@pytest.mark.parametrize(("kernel", "stride"), [(7, 3), (3, 2), (2, 2), (4, 1)])
@pytest.mark.parametrize("extra", [0, 1, 2, 3, 4, 11])
def test_a_convolution_as_a_product_of_its_windows(tmp_path, kernel, stride, extra):
    random = np.random.default_rng(3)
    weights = {"w": random.standard_normal((24, 16, kernel)).astype(np.float32), "b": np.arange(24, dtype=np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[stride])
    whole = save_model(tmp_path / "float.onnx", node, weights, [None, 16, None])
    x = random.standard_normal((2, 16, kernel + extra)).astype(np.float32)
    expected, computed = whole.run(None, {"x": x})[0], quantised(tmp_path).run(None, {"x": x})[0]
    assert computed.shape == expected.shape
    assert np.abs(computed - expected).max() < 0.02 * np.abs(expected).max()


def test_seven_bits_cannot_overflow_sixteen(tmp_path, product):
    """Without VNNI an activation of 255 times a weight is added to another one in 16 bits."""
    quantised(tmp_path, quantisation.LARGEST_WEIGHT_WITHOUT_VNNI)
    weights = [numpy_helper.to_array(each) for each in onnx.load(tmp_path / "int8.onnx").graph.initializer]
    (rounded,) = (weight for weight in weights if weight.dtype == np.int8)
    assert 2 * 255 * int(np.abs(rounded).max()) < 2**15


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu avx2 avx512f", False),
        ("x86_64", "avx2 avx_vnni", True),
        ("AMD64", "avx512_vnni", True),
        ("aarch64", "", True),
    ],
)
def test_a_processor_says_whether_it_has_vnni(tmp_path, machine, flags, exact):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert hardware.sums_int8_products_exactly(tmp_path / "cpuinfo", machine) is exact


@pytest.mark.parametrize(
    ("exact", "precision", "remarked"), [(False, "int8", True), (True, "int8", False), (False, "fp32", False)]
)
def test_int8_without_vnni_is_remarked_on(monkeypatch, tmp_path, exact, precision, remarked):
    monkeypatch.setattr(hardware, "sums_int8_products_exactly", lambda: exact)
    remark = selection.choose(tmp_path, "any/model", precision, "onnxruntime").remark
    assert ("no VNNI" in (remark or "")) == remarked


def test_an_engine_for_vnni_is_refused_without_it_and_built_anew(built, monkeypatch):
    directory = built("int8")
    found = manifest.Manifest.model_validate_json((directory / "manifest.json").read_bytes())
    choice = selection.choose(directory.parent, found.model, "int8", "onnxruntime")
    request = BuildOptions(found.model, "onnxruntime", "int8", directory.parent, 32, None, False)
    assert onnxruntime_target.is_current(request, found)
    monkeypatch.setattr(hardware, "sums_int8_products_exactly", lambda: not found.needs_exact_int8_sums)
    assert not onnxruntime_target.is_current(request, found)
    if found.needs_exact_int8_sums:
        with pytest.raises(EngineDirectoryError, match="VNNI.*run: python engine_build/build.py"):
            selection.check(choice, 32)


@pytest.mark.parametrize(
    ("target", "flags", "precision"),
    [
        ("onnxruntime", "avx2 avx_vnni", "int8"),
        ("onnxruntime", "avx2", "fp32"),
        ("native", "avx2", "int8"),
        ("tensorrt", "avx2", "fp16"),
        ("torch", "", "fp16"),
    ],
)
def test_the_default_precision_is_the_fastest_that_costs_no_words(tmp_path, monkeypatch, target, flags, precision):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    assert selection.default_precision(target) == precision
    assert selection.choose(tmp_path, "owner/model", None, target).precision == precision
