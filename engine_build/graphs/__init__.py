"""The networks' graphs as ONNX without weights, and the code that fills a checkpoint's weights into them by name. No torch.

scripts/make_graphs.py writes the files beside this one from engine_build/model.py. An initializer without data is a parameter:
its name is the parameter's name, and after a colon the form that the graph needs, as in `layers.0.fc1.weight:transposed`.
"""

import copy
import gzip
import importlib
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from engine_build.checkpoint import BASE_CONFIG, TINY_CONFIG, Checkpoint, ModelConfig
from engine_build.options import BuildError
from engine_build.parameters import Parameters, decoder_parameters, encoder_parameters
from engine_build.streaming_parameters import EXCLUSIVE, INCLUSIVE, StreamingConfig, medium, small, tiny
from runtime.engine.manifest import ALIGNER_FILE, DECODER_FILE, ENCODER_FILE

FILES = (ENCODER_FILE, DECODER_FILE, ALIGNER_FILE)
SHAPES: dict[str, ModelConfig | StreamingConfig] = {"base": BASE_CONFIG, "tiny": TINY_CONFIG} | {
    f"streaming-{size.__name__}/{reading}": size(reading) for size in (tiny, small, medium) for reading in (EXCLUSIVE, INCLUSIVE)
}
"""Configurations whose graphs are here, by their folder, where a streaming model has an encoder for each reading of its
windows."""
DATA_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
TRANSPOSED = "transposed"
Models = dict[str, ModelProto]


class GraphsMissing(BuildError):
    """A shape has no graphs here, and torch is not installed to export them."""


def models(weights: Checkpoint, precision: str) -> Models:
    """Return encoder, decoder and aligner with the checkpoint's weights, by file name.

    A checkpoint of a shape without stored graphs is exported, which needs torch. Raises CheckpointError for weights that do not
    fit their configuration, BuildError if there is neither a graph nor torch.
    """
    of_decoder = decoder_parameters(weights)
    parameters = {ENCODER_FILE: encoder_parameters(weights), DECODER_FILE: of_decoder, ALIGNER_FILE: of_decoder}
    graphs = stored(weights.config, precision) or exported(weights, precision)
    for name, graph in graphs.items():
        fill(graph, parameters[name], precision)
    return graphs


def stored(config: ModelConfig | StreamingConfig, precision: str) -> Models:
    """Return the graphs that are stored here for a configuration; empty if there are none."""
    folder = next((name for name, shape in SHAPES.items() if shape == config), None)
    if folder is None:
        return {}
    if precision not in precisions_of(config):
        return {}
    return {name: onnx.load_from_string(gzip.decompress(path_of(folder, precision, name).read_bytes())) for name in FILES}


def precisions_of(config: ModelConfig | StreamingConfig) -> tuple[str, ...]:
    """Return the precisions of the graphs here; a streaming model's graphs are only needed in float32."""
    return ("fp32",) if isinstance(config, StreamingConfig) else tuple(DATA_TYPES)


def path_of(folder: str, precision: str, name: str) -> Path:
    folder, _, reading = folder.partition("/")
    own = f"{reading}." if reading and name == ENCODER_FILE else ""
    return Path(__file__).parent / folder / f"{precision}.{own}{name}.gz"


def exported(weights: Checkpoint, precision: str) -> Models:
    """Return the graphs of any configuration, from PyTorch. Raises GraphsMissing if it is not installed."""
    try:
        export = importlib.import_module("engine_build.export")
    except ModuleNotFoundError as exc:
        raise GraphsMissing(
            f"{weights.model} has another shape than those whose graphs are here: building it needs torch and onnxscript "
            "(bash scripts/install.sh --torch in a checkout)"
        ) from exc
    return {name: copy.deepcopy(graph) for name, graph in export.graphs(weights.config, precision).items()}


def fill(model: ModelProto, parameters: Parameters, precision: str) -> None:
    """Give every parameter of the graph its values, rounded to the precision."""
    rounded = helper.tensor_dtype_to_np_dtype(DATA_TYPES[precision])
    for tensor in model.graph.initializer:
        if not is_parameter(tensor):
            continue
        name, _, wish = tensor.name.partition(":")
        values = parameters[name].T if wish.startswith(TRANSPOSED) else parameters[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        filled = values.astype(rounded).astype(dtype).reshape(tensor.dims)
        tensor.raw_data = np.ascontiguousarray(filled).tobytes()


def strip(model: ModelProto, parameters: Parameters, precision: str) -> None:
    """Remove from an export the weights, which fill() fills in again, and the exporter's metadata. The inverse of fill()."""
    rounded = helper.tensor_dtype_to_np_dtype(DATA_TYPES[precision])
    names = {}
    for name, values in parameters.items():
        values = values.astype(rounded).astype(np.float32)
        names[values.tobytes()] = name
        if values.ndim == 2:
            names.setdefault(values.T.tobytes(), f"{name}:{TRANSPOSED}")
    new_names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if name := names.get(values.astype(np.float32).tobytes()) if values.size > 1 else None:
            name += f":{values.dtype}" if name in new_names.values() else ""
            new_names[tensor.name] = name
            tensor.name = name
            tensor.ClearField("raw_data")
    for node in model.graph.node:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field in ("value_info", "metadata_props", "doc_string"):
        model.graph.ClearField(field)
    for field in ("metadata_props", "doc_string"):
        model.ClearField(field)
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")


def is_parameter(tensor: TensorProto) -> bool:
    return bool(np.prod(tensor.dims)) and not tensor.raw_data
