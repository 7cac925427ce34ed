"""For x86 processors: the model's weights, and C++ that computes with them (engine_build/native/), compiled for each level."""

import concurrent.futures
import os
import platform
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
from runtime.engine.manifest import DECODER_FILE, ENCODER_FILE, NATIVE_FLAGS, NATIVE_WEIGHTS, Manifest

PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "fp16": "fp32"}  # asked for: built
EXPORTS = {"fp32": "fp32", "bf16": "fp32", "int8": "fp32"}  # built: the export it is made from
PACKAGES = ("onnx", "numpy")
SOURCES = Path(__file__).with_name("native")
# Products and sums are contracted where the code says so only: a row must not depend on how many the compiler took together.
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
STATIC = ("-static-libgcc", "-static-libstdc++")  # then the library runs where no compiler is; some systems lack what it takes
ENCODER_PRODUCTS = ("qkv", "out", "fc1", "fc2")  # of a layer, in the order of the graph
FINER = "conv3"  # one in 25 multiplications; in int8 it made a third of the error that all products make
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

    @property
    def library(self) -> str:
        """The file's name."""
        return f"engine.{self.name}.so"


AVX512 = (*NATIVE_FLAGS, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
LEVELS = tuple(
    Level(name, tuple(f"-m{flag.replace('_', '')}" for flag in flags), flags)
    for name, flags in (
        ("avx512-bf16", (*AVX512, "avx512_bf16")),
        ("avx512-vnni", AVX512),
        ("avx-vnni", (*NATIVE_FLAGS, "avx_vnni")),
        ("avx2", NATIVE_FLAGS),
    )
)
LEAST = LEVELS[-1]
ONLY_FOR = {"avx512_bf16": ("bf16", "int8"), "avx_vnni": ("int8",)}  # instructions that are of use to some precisions


def write(options: BuildOptions, exported: Path, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files. Raises BuildError where there is no compiler, or where it fails."""
    stages.begin("pack the weights")
    encoder, decoder = onnx.load(exported / ENCODER_FILE), onnx.load(exported / DECODER_FILE)
    arrays: dict[str, Any] = tables_of(encoder, decoder, built)
    for name, weight in products_of(encoder, decoder, built).items():
        if options.precision == "fp32" or name == "conv1":  # which hears samples: its windows overlap by half
            arrays[name] = weight
        elif options.precision == "bf16" or name == FINER:
            arrays[f"{name}.bfloat16"] = bfloat16_of(weight)
        else:
            arrays[f"{name}.int8"], arrays[f"{name}.scales"] = quantised(weight)
    np.savez(directory / NATIVE_WEIGHTS, **arrays)
    levels = levels_for(options.precision)
    stages.begin(f"compile the engine for {', '.join(level.name for level in levels)}")
    libraries = compile_libraries(directory, options.precision, levels, stages)
    return built.model_copy(update={
        "libraries": {level.library: level.flags for level in libraries},
        "versions": built.versions | {"compiler": run(*find_compiler(), "--version").splitlines()[0]},
    })  # fmt: skip


def is_current(options: BuildOptions, built: Manifest) -> bool:
    """An engine for every level suits any processor."""
    return True


def check_machine() -> None:
    """Raises BuildError where nothing can be compiled. The machine may be another than the one that will serve."""
    if platform.machine().lower() not in hardware.X86:
        raise BuildError(f"the native target is for x86-64, this is {platform.machine()}; --target onnxruntime runs anywhere")
    find_compiler()


def levels_for(precision: str) -> tuple[Level, ...]:
    """Those whose instructions are of use to a precision."""
    return tuple(level for level in LEVELS if precision in ONLY_FOR.get(level.flags[-1], (precision,)))


def options_for(level: Level) -> tuple[str, ...]:
    return (*OPTIONS, *level.options)


def compile_libraries(directory: Path, precision: str, levels: tuple[Level, ...], stages: Stages) -> list[Level]:
    """Those of the levels that the compiler knows: an old one may know the least only, and raises BuildError if not that."""
    done = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = {level: pool.submit(compile_library, directory / level.library, precision, level) for level in levels}
        for level, compiled in compiling.items():
            try:
                compiled.result()
                done.append(level)
            except BuildError as exc:
                if level == LEAST:
                    raise
                stages.say(f"left out {level.name}: {exc}")
    return done


def compile_library(path: Path, precision: str, level: Level = LEAST) -> None:
    """Raises BuildError with the compiler's first error."""
    compiler = find_compiler()
    half = () if precision == "fp32" else ("-DMOONSHINE_HALF",)  # what slots keep, of keys and values
    command = (*compiler, *options_for(level), *half, "-o", str(path), str(SOURCES / "engine.cpp"))
    try:
        run(*command, *STATIC)
    except BuildError:
        run(*command)


def find_compiler() -> list[str]:
    """Raises BuildError."""
    found = hardware.find_compiler()
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
