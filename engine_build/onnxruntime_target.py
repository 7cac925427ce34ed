"""The last step for ONNX Runtime: float32 as exported, or int8 weights in the decoder."""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

PRECISIONS = {"fp32": "fp32", "int8": "int8", "fp16": "fp32", "bf16": "fp32"}  # asked for: built
BLOCK_SIZE = 32  # weights that share a scale
ACCURACY_LEVEL = 4  # int8 activations, quantised per row and block: a row's result never depends on the others


def quantise_decoder(path: Path) -> None:
    """Replace the decoder's matrix products by MatMulNBits: 8-bit weights in blocks of 32, in place.

    The encoder stays in float32: its dynamic int8 forms couple rows or cost accuracy, and MatMulNBits makes it no faster.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    model = onnx.load(path)
    untie_output_projection(model)
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=ACCURACY_LEVEL, bits=8)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


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
