"""For this very processor: the model's weights, and a library of C++ that computes with them (engine_build/native/)."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from engine_build.alignment_heads import alignment_heads
from engine_build.options import BuildError, BuildOptions, Stages
from engine_build.quantisation import LARGEST_WEIGHT
from runtime import hardware
from runtime.engine.manifest import DECODER_FILE, ENCODER_FILE, NATIVE_LIBRARY, NATIVE_WEIGHTS, Manifest

PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "fp16": "fp32"}  # asked for: built
EXPORTS = {"fp32": "fp32", "bf16": "fp32", "int8": "fp32"}  # built: the export it is made from
PACKAGES = ("onnx", "numpy")
SOURCES = Path(__file__).with_name("native")
COMPILERS = ("c++", "g++", "clang++")
# Products and sums are contracted where the code says so only: a row must not depend on how many the compiler took together.
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
STATIC = ("-static-libgcc", "-static-libstdc++")  # then the library runs where no compiler is; some systems lack what it takes
LEVEL_VARIABLE = "NATIVE_LEVEL"  # names a level; default: DEFAULT_LEVEL
ENCODER_PRODUCTS = ("qkv", "out", "fc1", "fc2")  # of a layer, in the order of the graph
DECODER_PRODUCTS = ("qkv", "out", "cross_query", "cross_out", "fc1", "fc2")
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Level:
    """Instructions that the library is compiled for."""

    name: str
    options: tuple[str, ...]
    """Of the compiler."""
    flags: tuple[str, ...]
    """What it uses, as /proc/cpuinfo names it."""


AVX2 = ("avx2", "fma", "f16c")
AVX512 = (*AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
LEVELS = tuple(
    Level(name, tuple(f"-m{flag.replace('_', '')}" for flag in flags), flags)
    for name, flags in (("avx512-bf16", (*AVX512, "avx512_bf16")), ("avx512-vnni", AVX512), ("avx2", AVX2))
)
DEFAULT_LEVEL = LEVELS[-1]  # the others have only run emulated


def write(options: BuildOptions, exported: Path, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files. Raises BuildError where there is no compiler, or where it fails."""
    level = level_asked_for()
    stages.begin(f"compile the engine for {level.name}")
    compiler = compile_library(directory / NATIVE_LIBRARY, options.precision, level)
    stages.begin("pack the weights")
    encoder, decoder = onnx.load(exported / ENCODER_FILE), onnx.load(exported / DECODER_FILE)
    arrays: dict[str, Any] = tables_of(encoder, decoder, built)
    for name, weight in products_of(encoder, decoder, built).items():
        if options.precision == "fp32" or name == "conv1":  # which hears samples: its windows overlap by half
            arrays[name] = weight
        elif options.precision == "bf16":
            arrays[f"{name}.bfloat16"] = bfloat16_of(weight)
        else:
            arrays[f"{name}.int8"], arrays[f"{name}.scales"] = quantised(weight)
    np.savez(directory / NATIVE_WEIGHTS, **arrays)
    return built.model_copy(update={"processor_flags": level.flags, "versions": built.versions | {"compiler": compiler}})


def is_current(options: BuildOptions, built: Manifest) -> bool:
    return built.processor_flags == level_asked_for().flags


def check_machine() -> None:
    """Raises BuildError where nothing can be compiled for this processor."""
    check_processor(level_asked_for())
    find_compiler()


def level_asked_for() -> Level:
    """Raises BuildError for one that there is not."""
    name = os.environ.get(LEVEL_VARIABLE, DEFAULT_LEVEL.name)
    found = next((level for level in LEVELS if level.name == name), None)
    if found is None:
        raise BuildError(f"{LEVEL_VARIABLE}={name}: there is {', '.join(level.name for level in LEVELS)}")
    return found


def options_for(level: Level) -> tuple[str, ...]:
    return (*OPTIONS, *level.options)


def compile_library(path: Path, precision: str, level: Level = DEFAULT_LEVEL) -> str:
    """Returns what the compiler says it is. Raises BuildError with its first error."""
    check_processor(level)
    compiler = find_compiler()
    half = () if precision == "fp32" else ("-DMOONSHINE_HALF",)  # what slots keep, of keys and values
    command = (*compiler, *options_for(level), *half, "-o", str(path), str(SOURCES / "engine.cpp"))
    try:
        run(*command, *STATIC)
    except BuildError:
        run(*command)
    return run(*compiler, "--version").splitlines()[0]


def check_processor(level: Level) -> None:
    """Raises BuildError."""
    if not hardware.has_flags(level.flags):
        raise BuildError(f"the native target needs a processor with {', '.join(level.flags)}; --target onnxruntime runs anywhere")


def find_compiler() -> list[str]:
    """Raises BuildError."""
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or list(filter(shutil.which, COMPILERS))[:1]
    if not found:
        raise BuildError("the native target needs a C++ compiler, which is not here; install g++, or use --target onnxruntime")
    return found


def run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise BuildError(f"the compiler cannot be run: {exc}") from exc
    if done.returncode:
        lines = done.stderr.splitlines() or [f"it ended with {done.returncode}"]
        first = next((line for line in lines if "error" in line or "cannot find" in line), lines[0])
        raise BuildError(f"{command[0]} cannot compile the native engine: {first}; --target onnxruntime needs no compiler")
    return done.stdout


def products_of(encoder: ModelProto, decoder: ModelProto, built: Manifest) -> Tensors:
    """By the names that engine_build/native/model.h has for them: float32 (columns, depth) each."""
    found = convolutions_of(encoder)
    weights = weights_of(encoder)
    for layer in range(built.encoder_layers):
        found |= {f"encoder.{layer}.{name}": next(weights) for name in ENCODER_PRODUCTS}
    cross = next(weights).reshape(built.decoder_layers, 2 * built.dim, built.dim)
    found |= {f"cross.{layer}": weight for layer, weight in enumerate(cross)}
    weights = weights_of(decoder)
    for layer in range(built.decoder_layers):
        found |= {f"decoder.{layer}.{name}": next(weights) for name in DECODER_PRODUCTS}
    return found | {"logits": initialiser(decoder, "embed_tokens.weight")}


def convolutions_of(encoder: ModelProto) -> Tensors:
    """As products: of a window's samples, or of its frames with all their channels one behind the other."""
    weights = {f"conv{number}": initialiser(encoder, f"conv{number}.weight") for number in (1, 2, 3)}
    return {name: np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(len(weight), -1) for name, weight in weights.items()}


def weights_of(model: ModelProto) -> Iterator[np.ndarray]:
    """Of the products, in the order of the graph: (columns, depth) each."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            yield np.ascontiguousarray(numpy_helper.to_array(tensors[node.input[1]]).T)


def tables_of(encoder: ModelProto, decoder: ModelProto, built: Manifest) -> Tensors:
    """What is no product: norms, biases, the embedding, the rotation."""
    scale, offset = (numpy_helper.to_array(each) for each in encoder.graph.initializer if list(each.dims) == [built.dim, 1])
    heads = alignment_heads(built)
    found = {
        "groupnorm.weight": scale.ravel(),
        "groupnorm.bias": offset.ravel(),
        "encoder.norm": initialiser(encoder, "layer_norm.weight"),
        "decoder.norm": initialiser(decoder, "norm.weight"),
        "embedding": initialiser(decoder, "embed_tokens.weight"),
        "forbidden": initialiser(decoder, "forbidden"),
        "rotary": initialiser(encoder, "rotary.table"),
        "alignment_heads": np.array(heads.heads, np.int32),
        "alignment_predicts": np.array(heads.predict),
    }
    found |= {f"conv{number}.bias": initialiser(encoder, f"conv{number}.bias") for number in (2, 3)}
    names = {"attention_norm": "input_layernorm.weight", "fc1.bias": "fc1.bias", "fc2.bias": "fc2.bias"}
    of_encoder = names | {"mlp_norm": "post_attention_layernorm.weight"}
    of_decoder = names | {"cross_norm": "post_attention_layernorm.weight", "mlp_norm": "final_layernorm.weight"}
    for layer in range(built.encoder_layers):
        found |= {f"encoder.{layer}.{ours}": initialiser(encoder, f"layers.{layer}.{name}") for ours, name in of_encoder.items()}
    for layer in range(built.decoder_layers):
        found |= {f"decoder.{layer}.{ours}": initialiser(decoder, f"layers.{layer}.{name}") for ours, name in of_decoder.items()}
    return found


def initialiser(model: ModelProto, name: str) -> np.ndarray:
    """Raises BuildError for one that the export does not have."""
    found = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
    if found is None:
        raise BuildError(f"the export has no {name}; --target onnxruntime serves it")
    return numpy_helper.to_array(found)


def bfloat16_of(weight: np.ndarray) -> np.ndarray:
    """uint16: the upper halves of float32, rounded to the nearest, of two as near to the even one."""
    bits = weight.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 (columns, depth), and float32 (columns,) scales: the largest weight of each column becomes 127."""
    scales = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny) / LARGEST_WEIGHT
    return np.round(weight / scales[:, None]).astype(np.int8), scales.astype(np.float32)
