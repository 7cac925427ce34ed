"""Nodes of an ONNX graph under construction; each is identified by the name of its output."""

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

CONTRIBUTED = "com.microsoft"  # ONNX Runtime's own operators


class Nodes:
    """A list of nodes and their constants, which grows in order and then replaces a model's own nodes."""

    def __init__(self, prefix: str):
        """prefix: prefix of all names made here, so that none is a name in the model."""
        self._prefix = prefix
        self._nodes: list[NodeProto] = []
        self._constants: dict[bytes | str, onnx.TensorProto] = {}

    def constant(self, value: np.ndarray | np.generic) -> str:
        """Add a constant and return its name; a small one that exists already is used again."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        name = f"{self._prefix}_constant_{len(self._constants)}"
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes() if array.size < 16 else name
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, name)
        return self._constants[key].name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        output = f"{self._prefix}_{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], output, domain=domain, **attributes))
        return output

    def take(self, node: NodeProto) -> None:
        """Add a node unchanged."""
        self._nodes.append(node)

    def rename(self, output: str, name: str) -> None:
        """Give the output of the newest node the name that other nodes use."""
        assert self._nodes[-1].output[0] == output, f"{output} is not the newest output"
        self._nodes[-1].output[0] = name

    def replace_those_of(self, model: ModelProto) -> None:
        """Replace the model's nodes by these; initializers that none of them uses are dropped."""
        graph = model.graph
        del graph.node[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in [*graph.initializer, *self._constants.values()] if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        if any(node.domain == CONTRIBUTED for node in self._nodes) and not has_contributed(model):
            model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))


def has_contributed(model: ModelProto) -> bool:
    return any(each.domain == CONTRIBUTED for each in model.opset_import)
