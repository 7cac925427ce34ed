"""The native target for x86: the model's weights in the layout of engine_build/native/, and its libraries."""

import platform
from pathlib import Path
from typing import Any

import numpy as np

from engine_build import native_libraries
from engine_build.alignment_heads import alignment_heads
from engine_build.checkpoint import Checkpoint
from engine_build.options import BuildError, BuildOptions, Stages
from engine_build.parameters import Parameters, decoder_parameters, encoder_parameters
from engine_build.quantisation import LARGEST_WEIGHT
from runtime import hardware
from runtime.engine.manifest import NATIVE_WEIGHTS, Manifest

PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "fp16": "fp32"}  # asked for: built
PACKAGES = ()
ENCODER_PRODUCTS = {"qkv": "self_attn.qkv_proj", "out": "o_proj", "fc1": "fc1", "fc2": "fc2"}
"""The products of a layer: their names in engine_build/native/model.h, and those of the modules in engine_build/model.py."""
FINER = "conv3"  # one in 25 multiplications; in int8 it made a third of the error that all products make
DECODER_PRODUCTS = ENCODER_PRODUCTS | {"cross_query": "cross_q_proj", "cross_out": "cross_o_proj"}
ENCODER_TABLES = {
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "fc1.bias": "fc1.bias",
    "fc2.bias": "fc2.bias",
}
DECODER_TABLES = ENCODER_TABLES | {"cross_norm": "post_attention_layernorm.weight", "mlp_norm": "final_layernorm.weight"}


def write(options: BuildOptions, weights: Checkpoint, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files. Raises BuildError where there is no compiler, or where it fails."""
    stages.begin("pack the weights")
    encoder, decoder = encoder_parameters(weights), decoder_parameters(weights)
    arrays: dict[str, Any] = tables_of(encoder, decoder, built)
    for name, weight in products_of(encoder, decoder, built).items():
        if options.precision == "fp32" or name == "conv1":  # which hears samples: its windows overlap by half
            arrays[name] = weight
        elif options.precision == "bf16" or name == FINER:
            arrays[f"{name}.bfloat16"] = bfloat16_of(weight)
        else:
            arrays[f"{name}.int8"], arrays[f"{name}.scales"] = quantised(weight)
    np.savez(directory / NATIVE_WEIGHTS, **arrays)
    levels, made_by = native_libraries.provide(directory, options.precision, stages)
    return built.model_copy(
        update={
            "libraries": {level.library: level.flags for level in levels},
            "versions": built.versions | {"compiler": made_by},
        }
    )


def is_current(options: BuildOptions, built: Manifest) -> bool:
    """An engine for every level suits any processor."""
    return True


def check_machine() -> None:
    """Raises BuildError where there are no libraries and none can be compiled. Another machine may serve."""
    if platform.machine().lower() not in hardware.X86:
        raise BuildError(f"the native target is for x86-64, this is {platform.machine()}; --target onnxruntime runs anywhere")
    native_libraries.check()


def products_of(encoder: Parameters, decoder: Parameters, built: Manifest) -> Parameters:
    """Return float32 (columns, depth) each, by the names that engine_build/native/model.h has for them."""
    found = {f"conv{number}": as_product(encoder[f"conv{number}.weight"]) for number in (1, 2, 3)}
    for layer in range(built.encoder_layers):
        found |= {f"encoder.{layer}.{ours}": encoder[f"layers.{layer}.{name}.weight"] for ours, name in ENCODER_PRODUCTS.items()}
    cross = encoder["cross_proj.weight"].reshape(built.decoder_layers, 2 * built.dim, built.dim)
    found |= {f"cross.{layer}": weight for layer, weight in enumerate(cross)}
    for layer in range(built.decoder_layers):
        found |= {f"decoder.{layer}.{ours}": decoder[f"layers.{layer}.{name}.weight"] for ours, name in DECODER_PRODUCTS.items()}
    return found | {"logits": decoder["embed_tokens.weight"]}


def as_product(weight: np.ndarray) -> np.ndarray:
    """Return a convolution (channels out, channels in, kernel) as the product of a window, each frame's channels side by side."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(len(weight), -1)


def tables_of(encoder: Parameters, decoder: Parameters, built: Manifest) -> Parameters:
    """Return what is no product: norms, biases, the embedding, the rotation."""
    heads = alignment_heads(built)
    found = {
        "encoder.norm": encoder["layer_norm.weight"],
        "decoder.norm": decoder["norm.weight"],
        "embedding": decoder["embed_tokens.weight"],
        "forbidden": decoder["forbidden"],
        "rotary": encoder["rotary.table"],
        "alignment_heads": np.array(heads.heads, np.int32),
        "alignment_predicts": np.array(heads.predict),
    }
    found |= {name: encoder[name] for name in ("groupnorm.weight", "groupnorm.bias", "conv2.bias", "conv3.bias")}
    for layer in range(built.encoder_layers):
        found |= {f"encoder.{layer}.{ours}": encoder[f"layers.{layer}.{name}"] for ours, name in ENCODER_TABLES.items()}
    for layer in range(built.decoder_layers):
        found |= {f"decoder.{layer}.{ours}": decoder[f"layers.{layer}.{name}"] for ours, name in DECODER_TABLES.items()}
    return found


def bfloat16_of(weight: np.ndarray) -> np.ndarray:
    """uint16: the upper halves of float32, rounded to the nearest, of two as near to the even one."""
    bits = weight.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 (columns, depth), and float32 (columns,) scales: the largest weight of each column becomes 127."""
    scales = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny) / LARGEST_WEIGHT
    return np.round(weight / scales[:, None]).astype(np.int8), scales.astype(np.float32)
