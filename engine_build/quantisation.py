"""Quantises an exported ONNX to int8: products of int8 rows for ONNX Runtime, int8 weights by DequantizeLinear for TensorRT.

Activations are never quantised per tensor: then the other rows of a batch or draft would change a row's result.
"""

import math
from collections.abc import Collection

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from engine_build.onnx_nodes import CONTRIBUTED, Nodes

LARGEST_WEIGHT = 127
LARGEST_WEIGHT_WITHOUT_VNNI = 63
"""Largest weight without VNNI. Other x86 kernels add two products of 8 bits in 16 bits; with 7 bits on one side, the sum cannot
overflow."""
ZERO_POINT = np.uint8(128)
SMALLEST_ROW = np.float32(1e-9)  # so that a row of zeros has a scale


def quantise_products(model: ModelProto, largest_weight: int, kept: Collection[str] = ()) -> None:
    """Quantise for ONNX Runtime: every product with a weight, and every convolution but the first, in int8.

    kept: names of parameters whose products stay in float32.

    A row of activations is scaled by its largest value, a column of weights by its own, and only integers are added: a row's
    result is the same to the last bit in any batch or draft. On two cores with VNNI this takes 0.6 to 0.7 of float32's time,
    for the encoder and for 8 to 128 rows of the decoder. MatMulNBits, which also quantises rows, in blocks of 32, is as fast
    for one row, and slower than float32 from 16 rows on.
    """
    untie_output_projection(model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = Nodes("int8")
    for node in graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is not None and weight.name.partition(":")[0] in kept:
            nodes.take(node)
        elif node.op_type == "MatMul" and weight is not None:
            product = multiply_rows(nodes, node.input[0], numpy_helper.to_array(weight), largest_weight)
            nodes.rename(product, node.output[0])
        elif node.op_type == "Conv" and weight.dims[1] > 1:  # the first one takes samples: its windows overlap by half
            nodes.rename(convolve_rows(nodes, node, weights, largest_weight), node.output[0])
        else:
            nodes.take(node)
    nodes.replace_those_of(model)


def multiply_rows(nodes: Nodes, x: str, weight: np.ndarray, largest_weight: int) -> str:
    """Add the product of x (…, rows, columns) and weight (columns, outputs), both in int8, scaled by row and by output."""
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / largest_weight
    rounded = np.round(weight / scale).astype(np.int8)
    largest = nodes.add("ReduceMax", nodes.add("Abs", x), nodes.constant(np.array([-1])), keepdims=1)
    per_row = nodes.add("Div", nodes.constant(np.float32(127)), nodes.add("Max", largest, nodes.constant(SMALLEST_ROW)))
    one, zero_point = nodes.constant(np.float32(1)), nodes.constant(ZERO_POINT)
    quantised = nodes.add("QuantizeLinear", nodes.add("Mul", x, per_row), one, zero_point)
    product = nodes.add(
        "MatMulIntegerToFloat",
        quantised,
        nodes.constant(rounded),
        one,
        nodes.constant(scale.astype(np.float32)),
        zero_point,
        domain=CONTRIBUTED,
    )
    return nodes.add("Div", product, per_row)


def convolve_rows(nodes: Nodes, node: NodeProto, weights: dict[str, onnx.TensorProto], largest_weight: int) -> str:
    """Add a convolution over time, (batch, channels, time), as a product of its windows.

    Time is cut into blocks of one stride each; a window is a block and the beginning of the blocks after it.
    """
    weight = numpy_helper.to_array(weights[node.input[1]])
    (stride,) = next(attribute.ints for attribute in node.attribute if attribute.name == "strides")
    _, channels, kernel = weight.shape
    blocks = math.ceil(kernel / stride)

    def number(value: int) -> str:
        return nodes.constant(np.array([value]))

    x = nodes.add("Transpose", node.input[0], perm=[0, 2, 1])
    time = nodes.add("Shape", x, start=1, end=2)
    windows = nodes.add("Add", nodes.add("Div", nodes.add("Sub", time, number(kernel)), number(stride)), number(1))
    wanted = nodes.add("Mul", nodes.add("Add", windows, number(blocks - 1)), number(stride))
    missing = nodes.add("Max", nodes.add("Sub", wanted, time), number(0))  # padding; it is in no window
    pads = nodes.add("Concat", nodes.constant(np.zeros(4, np.int64)), missing, number(0), axis=0)
    x = nodes.add("Slice", nodes.add("Pad", x, pads), number(0), wanted, number(1))
    x = nodes.add("Reshape", x, nodes.constant(np.array([0, -1, stride * channels])))
    parts = []
    for block in range(blocks):
        columns = min(stride, kernel - block * stride) * channels
        rows = nodes.add("Slice", x, number(block), nodes.add("Add", windows, number(block)), number(1))
        parts.append(nodes.add("Slice", rows, number(0), number(columns), number(2)) if columns < stride * channels else rows)
    product = multiply_rows(
        nodes, nodes.add("Concat", *parts, axis=2), weight.transpose(2, 1, 0).reshape(kernel * channels, -1), largest_weight
    )
    if len(node.input) > 2:
        product = nodes.add("Add", product, node.input[2])
    return nodes.add("Transpose", product, perm=[0, 2, 1])


def quantise_weights(model: ModelProto) -> None:
    """Quantise for TensorRT: every matrix as int8 with a scale for each column, dequantised before its product.

    TensorRT fuses the two and keeps the weights in int8; the product itself is computed in the precision of the model.
    """
    untie_output_projection(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = Nodes("int8")
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            weight = numpy_helper.to_array(weights[node.input[1]])
            whole = weight.astype(np.float32)
            scale = np.maximum(np.abs(whole).max(axis=0), np.finfo(np.float16).tiny) / 127
            rounded = nodes.constant(np.round(whole / scale).astype(np.int8))
            node.input[1] = nodes.add("DequantizeLinear", rounded, nodes.constant(scale.astype(weight.dtype)), axis=1)
        nodes.take(node)
    nodes.replace_those_of(model)


def untie_output_projection(model: ModelProto) -> None:
    """Give products with a transposed weight a separate weight: the quantiser handles only initializers.

    In the decoder this is the output projection, tied to the embedding, a third of all weights.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    transposed = {node.output[0]: node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in transposed:
            weight = numpy_helper.to_array(weights[transposed[node.input[1]].input[0]])
            node.input[1] += "_untied"
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), node.input[1]))
    used = {name for node in model.graph.node for name in node.input}
    for node in list(transposed.values()):
        if node.output[0] not in used:
            model.graph.node.remove(node)
