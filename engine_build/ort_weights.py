"""Reads Moonshine's weights from the ORT flatbuffers in the packages of Moonshine AI, without running them.

A weight `W` is stored as `W_quantized`, `W_scale` and `W_zero_point`. moonshine-cpp has it as int8 with a zero point in float:
W = quantised * scale + zero_point. moonshine-voice has it as ONNX defines it, in uint8: W = (quantised - zero_point) * scale.
Linear weights have anonymous names; the operator that consumes one is named after its module, and holds its transpose.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ENCODER_FILE = "encoder_model.ort"
DECODER_FILE = "decoder_model_merged.ort"
TOKENIZER_FILE = "tokenizer.bin"

FLOAT, UINT8, INT8 = 1, 2, 3  # onnx.TensorProto data types
SPECIAL_TOKENS = 3  # ids 0 to 2 carry no text
BYTE_TOKENS = range(3, 3 + 256)  # each stands for one raw byte
DTYPES = {FLOAT: np.float32, UINT8: np.uint8, INT8: np.int8}
LINEAR_MODULES = ("_proj/", "/dense/", "/fc1/", "/fc2/")
PRODUCTS = (b"MatMul", b"DynamicQuantizeMatMul", b"MatMulIntegerToFloat")  # their second input is the weight
MODULE_NAMES = {".dense.": ".o_proj.", ".up_proj.": ".fc1.", ".down_proj.": ".fc2."}  # the package's names: transformers'


def package_files(name: str, directory: str) -> tuple[Path, str]:
    """Return a folder of an installed package, and the package's version. The package itself (a C++ library) is not imported.

    Raises ModuleNotFoundError if it is not installed.
    """
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin).parent / directory, importlib.metadata.version(name)


def read_weights(encoder: Path, decoder: Path) -> dict[str, np.ndarray]:
    """Return all weights, float32, by their names in transformers' `MoonshineForConditionalGeneration`."""
    weights = {f"model.encoder.{name}": weight for name, weight in graph_weights(encoder)}
    weights |= {name if name.startswith("model.") else f"model.decoder.{name}": weight for name, weight in graph_weights(decoder)}
    return weights


def graph_weights(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    # Its package imports torch, which a machine that builds from an export does not have.
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    graph = InferenceSession.GetRootAs(path.read_bytes(), 0).Model().Graph()
    tensors = {name: array for each in subgraphs(graph) for name, array in initializers(each)}
    tensors |= {
        name.removesuffix("_quantized"): dequantise(tensors, name.removesuffix("_quantized"))
        for name in list(tensors)
        if name.endswith("_quantized")
    }
    for name, tensor in tensors.items():
        if name.endswith((".weight", ".bias")):
            yield rename(name), tensor
    for each in subgraphs(graph):
        for node in nodes(each):
            module, operator = node.Name().decode(), node.OpType()
            if operator in PRODUCTS:
                weight = tensors.get(weight_name(node.Inputs(1)))
                if weight is not None and any(part in module for part in LINEAR_MODULES):
                    yield rename(re.sub(r"\.MatMul(_quant)?$", ".weight", module.strip("/").replace("/", "."))), weight.T.copy()
            elif module == "/groupnorm/Mul":
                yield "groupnorm.weight", tensors[weight_name(node.Inputs(1))].reshape(-1)
            elif module == "/groupnorm/Add":
                yield "groupnorm.bias", tensors[weight_name(node.Inputs(1))].reshape(-1)


def initializers(graph) -> Iterator[tuple[str, np.ndarray]]:
    for index in range(graph.InitializersLength()):
        tensor = graph.Initializers(index)
        if tensor.DataType() in DTYPES:
            shape = [tensor.Dims(axis) for axis in range(tensor.DimsLength())]
            array = tensor.RawDataAsNumpy().view(DTYPES[tensor.DataType()]).reshape(shape)
            yield plain_name(tensor.Name()), array


def subgraphs(graph) -> Iterator:
    yield graph
    for node in nodes(graph):
        for index in range(node.AttributesLength()):
            if (inner := node.Attributes(index).G()) is not None:
                yield from subgraphs(inner)


def nodes(graph) -> Iterator:
    return (graph.Nodes(index) for index in range(graph.NodesLength()))


def dequantise(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    quantised, zero_point = tensors[f"{name}_quantized"].astype(np.float32), tensors[f"{name}_zero_point"]
    if zero_point.dtype == np.float32:
        return quantised * tensors[f"{name}_scale"] + zero_point
    return (quantised - zero_point.astype(np.float32)) * tensors[f"{name}_scale"]


def weight_name(tensor: bytes) -> str:
    return plain_name(tensor).removesuffix("_quantized")


def plain_name(tensor: bytes) -> str:
    """Return the name without the parts added by the exporter and the optimiser of ONNX Runtime."""
    return re.sub(r"_(add_tensor|mul_tensor|cast_tensor)$", "", tensor.decode()).replace("_merged_0", "")


def rename(name: str) -> str:
    for ours, theirs in MODULE_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def read_tokenizer(path: Path) -> list[str]:
    """Return the pieces by id. Each entry is its length (one byte, or two: b0 - 128 + 128 * b1) and that many bytes of UTF-8."""
    data, position, entries = path.read_bytes(), 0, []
    while position < len(data):
        length = data[position]
        position += 1
        if length > 127:
            length = length - 128 + 128 * data[position]
            position += 1
        entries.append(data[position : position + length])
        position += length
    return [piece_of(token, entry) for token, entry in enumerate(entries)]


def piece_of(token: int, entry: bytes) -> str:
    if token < SPECIAL_TOKENS:
        return ""
    return f"<0x{entry[0]:02X}>" if token in BYTE_TOKENS else entry.decode()
