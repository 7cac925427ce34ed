"""The native target for x86: the model's weights in the layout of engine_build/native/, and its libraries."""

import itertools
import platform
from pathlib import Path
from typing import Any

import numpy as np

from engine_build import native_libraries
from engine_build.alignment_heads import alignment_heads
from engine_build.checkpoint import Checkpoint, ModelConfig
from engine_build.options import BuildError, BuildOptions, Stages
from engine_build.parameters import Parameters, decoder_parameters, encoder_parameters
from engine_build.quantisation import LARGEST_WEIGHT
from engine_build.streaming_parameters import StreamingConfig
from runtime import hardware
from runtime.engine.manifest import NATIVE_WEIGHTS, Manifest

PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "fp16": "fp32"}  # requested: built
PACKAGES = ()
ENCODER_PRODUCTS = {"qkv": "self_attn.qkv_proj", "out": "o_proj", "fc1": "fc1", "fc2": "fc2"}
"""The products of a layer: their names in engine_build/native/, and those of the modules in engine_build/model.py."""
LONGEST_VECTOR = 16  # numbers in a vector of AVX-512
MOST_WIDTH = 1024
FLOATS = ("conv1", "frontend.linear")
"""Products that stay in float32: their inputs are samples, in windows that overlap by half or are short."""
FINER = ("conv3", "frontend.conv1", "frontend.conv2")
"""Products in bfloat16 in int8 engines. conv3 has one in 25 multiplications, and in int8 caused a third of the error of all
products. A streaming model with int8 convolutions has 3.6 points more word errors, as its authors found."""
DECODER_PRODUCTS = ENCODER_PRODUCTS | {"cross_query": "cross_q_proj", "cross_out": "cross_o_proj"}
ENCODER_TABLES = {
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "fc1.bias": "fc1.bias",
    "fc2.bias": "fc2.bias",
}
DECODER_TABLES = ENCODER_TABLES | {"cross_norm": "post_attention_layernorm.weight", "mlp_norm": "final_layernorm.weight"}


def write(options: BuildOptions, weights: Checkpoint, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the engine's files. Raises BuildError if there is no compiler, or if it fails."""
    stages.begin("pack the weights")
    check_widths(weights.config)
    arrays: dict[str, Any] = {}
    tables, products = parts_of(weights, built)
    arrays |= tables
    for name, weight in products.items():
        if options.precision == "fp32" or name in FLOATS:
            arrays[name] = weight
        elif options.precision == "bf16" or name in FINER:
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
    """Always true: an engine has libraries for all levels, and so suits any processor."""
    return True


def check_machine() -> None:
    """Raises BuildError if there are no libraries and none can be compiled. Another machine may serve the engine."""
    if platform.machine().lower() not in hardware.X86:
        raise BuildError(f"the native target is for x86-64, this is {platform.machine()}; --target onnxruntime runs anywhere")
    native_libraries.check()


def check_widths(config: ModelConfig | StreamingConfig) -> None:
    """Raise BuildError for a model whose rows are not whole vectors, or are longer than the engine allows."""
    widths = {"the decoder's width": config.dim, "the decoder's attention": config.attention_dim}
    inner = {"the decoder's MLP": config.mlp_dim, "the vocabulary": config.vocabulary}
    if isinstance(config, StreamingConfig):
        widths["the encoder's attention"] = config.encoder_attention_dim
        inner["the encoder's MLP"] = config.encoder_mlp_dim
        if config.encoder_dim > MOST_WIDTH:
            raise BuildError(
                f"the native target takes rows of up to {MOST_WIDTH} numbers; the encoder's width is {config.encoder_dim}"
            )
    for name, width in (widths | inner).items():
        if width % LONGEST_VECTOR:
            raise BuildError(
                f"the native target takes whole vectors of {LONGEST_VECTOR}; {name} is {width}: --target onnxruntime"
            )
    for name, width in widths.items():
        if width > MOST_WIDTH:
            raise BuildError(f"the native target takes rows of up to {MOST_WIDTH} numbers; {name} is {width}")


def parts_of(weights: Checkpoint, built: Manifest) -> tuple[Parameters, Parameters]:
    """Return the model's tables and its products, float32 (columns, depth) each, by their names in engine_build/native/."""
    encoder, decoder = encoder_parameters(weights), decoder_parameters(weights)
    products = decoder_products(decoder, built) | {"logits": decoder.get("output.weight", decoder["embed_tokens.weight"])}
    tables = decoder_tables(decoder, built)
    if isinstance(weights.config, StreamingConfig):
        return tables | streaming_tables(encoder, weights.config), products | streaming_products(encoder, weights.config)
    return tables | clip_tables(encoder, built), products | clip_products(encoder, built)


def clip_products(encoder: Parameters, built: Manifest) -> Parameters:
    found = {f"conv{number}": as_product(encoder[f"conv{number}.weight"]) for number in (1, 2, 3)}
    for layer in range(built.encoder_layers):
        found |= {f"encoder.{layer}.{ours}": encoder[f"layers.{layer}.{name}.weight"] for ours, name in ENCODER_PRODUCTS.items()}
    cross = encoder["cross_proj.weight"].reshape(built.decoder_layers, 2 * built.dim, built.dim)
    return found | {f"cross.{layer}": weight for layer, weight in enumerate(cross)}


def streaming_products(encoder: Parameters, config: StreamingConfig) -> Parameters:
    """Return the encoder's products. Its rows are padded with zeros to whole vectors; so are the weights that read or write
    them."""
    wide = whole_vectors(config.encoder_dim)
    found = {
        "frontend.linear": filled(encoder["linear.weight"], wide),
        "frontend.conv1": as_product(filled(encoder["conv1.weight"], 2 * wide, wide)),
        "frontend.conv2": as_product(filled(encoder["conv2.weight"], wide, 2 * wide)),
    }
    for layer in range(config.encoder_layers):
        at, to = f"layers.{layer}.", f"encoder.{layer}."
        found[f"{to}qkv"] = filled(encoder[f"{at}qkv_proj.weight"], None, wide)
        found[f"{to}out"] = filled(encoder[f"{at}o_proj.weight"], wide)
        found[f"{to}fc1"] = filled(encoder[f"{at}fc1.weight"], None, wide)
        found[f"{to}fc2"] = filled(encoder[f"{at}fc2.weight"], wide)
    adapter = encoder.get("adapter.weight")
    if adapter is not None:
        found["encoder.adapter"] = filled(adapter, None, wide)
    for layer, weight in enumerate(np.split(encoder["cross_proj.weight"], config.decoder_layers)):
        found[f"cross.{layer}"] = filled(weight, None, wide) if adapter is None else weight
    return found


def streaming_tables(encoder: Parameters, config: StreamingConfig) -> Parameters:
    wide = whole_vectors(config.encoder_dim)
    found = {
        "frontend.compression": encoder["compression"],
        "frontend.conv1.bias": filled(encoder["conv1.bias"], 2 * wide),
        "frontend.conv2.bias": filled(encoder["conv2.bias"], wide),
        "encoder.norm": filled(encoder["norm.weight"], wide),
        "encoder.positions": np.ravel(filled(encoder["positions"], None, wide)),
        "encoder.windows": np.ravel(np.array(config.windows, np.float32)),
    }
    for layer in range(config.encoder_layers):
        tables = {f"encoder.{layer}.{ours}": encoder[f"layers.{layer}.{name}"] for ours, name in ENCODER_TABLES.items()}
        found |= {name: table if name.endswith("fc1.bias") else filled(table, wide) for name, table in tables.items()}
    return found


def whole_vectors(width: int) -> int:
    return -(-width // LONGEST_VECTOR) * LONGEST_VECTOR


def filled(weight: np.ndarray, *sizes: int | None) -> np.ndarray:
    """Pad axes of a weight with zeros to these sizes; None leaves an axis unchanged."""
    wanted = [have if size is None else size for have, size in itertools.zip_longest(weight.shape, sizes)]
    return np.pad(weight, [(0, size - have) for have, size in zip(weight.shape, wanted, strict=True)])


def decoder_products(decoder: Parameters, built: Manifest) -> Parameters:
    found: Parameters = {}
    for layer in range(built.decoder_layers):
        found |= {f"decoder.{layer}.{ours}": decoder[f"layers.{layer}.{name}.weight"] for ours, name in DECODER_PRODUCTS.items()}
    return found


def as_product(weight: np.ndarray) -> np.ndarray:
    """Return a convolution (channels out, channels in, kernel) as a product with a window, each frame's channels side by side."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(len(weight), -1)


def clip_tables(encoder: Parameters, built: Manifest) -> Parameters:
    found = {"encoder.norm": encoder["layer_norm.weight"], "rotary": encoder["rotary.table"]}
    found |= {name: encoder[name] for name in ("groupnorm.weight", "groupnorm.bias", "conv2.bias", "conv3.bias")}
    for layer in range(built.encoder_layers):
        found |= {f"encoder.{layer}.{ours}": encoder[f"layers.{layer}.{name}"] for ours, name in ENCODER_TABLES.items()}
    return found


def decoder_tables(decoder: Parameters, built: Manifest) -> Parameters:
    """Return all parameters that are not products: norms, biases, the embedding, the rotation."""
    heads = alignment_heads(built)
    found = {
        "decoder.norm": decoder["norm.weight"],
        "embedding": decoder["embed_tokens.weight"],
        "forbidden": decoder["forbidden"],
        "rotary": decoder["rotary.table"],
        "alignment_heads": np.array(heads.heads, np.int32),
        "alignment_predicts": np.array(heads.predict),
    }
    for layer in range(built.decoder_layers):
        found |= {f"decoder.{layer}.{ours}": decoder[f"layers.{layer}.{name}"] for ours, name in DECODER_TABLES.items()}
    return found


def bfloat16_of(weight: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 as uint16, rounded to the nearest, ties to even."""
    bits = weight.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 (columns, depth) and float32 (columns,) scales: the largest weight of each column becomes 127."""
    scales = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny) / LARGEST_WEIGHT
    return np.round(weight / scales[:, None]).astype(np.int8), scales.astype(np.float32)
