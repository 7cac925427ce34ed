"""int8 weights in an exported ONNX: for ONNX Runtime by MatMulNBits, for TensorRT by DequantizeLinear.

Activations are never quantised per tensor: then what else is in a batch or a draft would change a row's result.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

BLOCK_SIZE = 32  # weights that share a scale
ACCURACY_LEVEL = 4  # int8 activations, quantised per row and block: a row's result never depends on the others


def quantise_products(source: Path, path: Path) -> None:
    """For ONNX Runtime: the decoder with its matrix products replaced by MatMulNBits, 8-bit weights in blocks of 32.

    The encoder stays in float32: its dynamic int8 forms couple rows or cost accuracy, and MatMulNBits makes it no faster.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    model = onnx.load(source)
    untie_output_projection(model)
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=ACCURACY_LEVEL, bits=8)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


def quantise_weights(source: Path, path: Path) -> None:
    """For TensorRT: every matrix as int8 with a scale for each of its columns, dequantised in front of its product.

    TensorRT fuses the two and keeps the weights in int8; the product itself is computed in the precision of `source`.
    """
    model = onnx.load(source)
    untie_output_projection(model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            name = node.input[1]
            weight = numpy_helper.to_array(weights[name])
            whole = weight.astype(np.float32)
            scale = np.maximum(np.abs(whole).max(axis=0), np.finfo(np.float16).tiny) / 127
            rounded = np.round(whole / scale).astype(np.int8)
            graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_int8"))
            graph.initializer.append(numpy_helper.from_array(scale.astype(weight.dtype), f"{name}_scale"))
            node.input[1] = f"{name}_dequantised"
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [node.input[1]], node.input[1], axis=1)
            )
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.save(model, path)


def untie_output_projection(model: ModelProto) -> None:
    """Give products with a transposed weight a weight of their own: the quantiser passes over anything but initializers.

    In the decoder that is the output projection, tied to the embedding, a third of all weights.
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
