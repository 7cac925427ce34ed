"""A checkpoint's tensors as the networks of model.py take them, computed with numpy: no torch is needed to serve.

The names on both sides are PyTorch's. These things change: the projections of one product are joined, the scale of the scores
moves into the query, and the rotated dimensions of each head are reordered from pairs to halves.
"""

import numpy as np

from engine_build import streaming_parameters
from engine_build.checkpoint import Checkpoint, CheckpointError, ModelConfig
from engine_build.streaming_parameters import DECODER, ENCODER, Parameters, StreamingConfig, mlp_shapes, scale_of
from engine_build.writing_systems import forbidden_tokens
from runtime.audio import SAMPLE_RATE, count_frames

MAX_SECONDS = 29.0  # of a clip; the decoder's 194 positions, at 6.5 tokens a second, end shortly after this
OUTPUT = "proj_out.weight"
MASKED = -3.0e4
"""Number added to a masked score and to a forbidden token's logit. It is finite, so that a row without frames stays finite, and
fits into float16."""


def encoder_parameters(weights: Checkpoint) -> Parameters:
    """Return the encoder's parameters and its rotary table, float32.

    For a streaming model they are those of streaming_parameters.encoder_parameters().
    Raises CheckpointError if a tensor is missing or has a wrong shape.
    """
    config, tensors = weights.config, weights.tensors
    if isinstance(config, StreamingConfig):
        check_shapes(weights)
        return streaming_parameters.encoder_parameters(config, tensors)
    found = parameters_of(weights, ENCODER, config.encoder_layers)
    found["cross_proj.weight"] = np.concatenate(
        [
            tensors[f"{DECODER}layers.{layer}.encoder_attn.{name}_proj.weight"]
            for layer in range(config.decoder_layers)
            for name in "kv"
        ]
    )
    return found | {"rotary.table": rotary_table(config, count_frames(int(MAX_SECONDS * SAMPLE_RATE)))}


def decoder_parameters(weights: Checkpoint) -> Parameters:
    """Return the decoder's parameters, its rotary table and the numbers added to its logits, float32. The aligner uses a part.

    Raises CheckpointError if a tensor is missing or has a wrong shape.
    """
    config, tensors = weights.config, weights.tensors
    found = parameters_of(weights, DECODER, config.decoder_layers)
    for layer in range(config.decoder_layers):
        attention = f"{DECODER}layers.{layer}"
        query = tensors[f"{attention}.encoder_attn.q_proj.weight"]
        found[f"layers.{layer}.cross_q_proj.weight"] = query * scale_of(config.head_dim)
        found[f"layers.{layer}.cross_o_proj.weight"] = tensors[f"{attention}.encoder_attn.o_proj.weight"]
    if isinstance(config, StreamingConfig):
        for name in ("pos_emb.weight", "proj.weight"):
            found.pop(name, None)  # parts of the encoder, which lead from its frames to the decoder
        found["output.weight"] = tensors.get(OUTPUT, found["embed_tokens.weight"])
    forbidden = np.where(forbidden_tokens(weights.pieces, weights.script), np.float32(MASKED), np.float32(0))
    return found | {"rotary.table": rotary_table(config, config.max_positions), "forbidden": forbidden}


def parameters_of(weights: Checkpoint, side: str, layers: int) -> Parameters:
    """Return the parameters that encoder and decoder have in common: the unchanged tensors, and the joined projections.

    Raises CheckpointError if a tensor is missing or has a wrong shape.
    """
    check_shapes(weights)
    found = renamed(side, weights.tensors)
    for attention in (f"layers.{layer}.self_attn" for layer in range(layers)):
        found[f"{attention}.qkv_proj.weight"] = joined_projection(weights.config, weights.tensors, f"{side}{attention}")
    return found


def renamed(prefix: str, tensors: Parameters) -> Parameters:
    """Return the tensors that are used unchanged, by the names of model.py."""
    changed = (".q_proj.", ".k_proj.", ".v_proj.", ".encoder_attn.")
    return {
        name.removeprefix(prefix).replace("mlp.", "").replace("self_attn.o_proj", "o_proj"): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not any(part in name for part in changed)
    }


def joined_projection(config: ModelConfig | StreamingConfig, tensors: Parameters, attention: str) -> np.ndarray:
    """Return q, k and v in one matrix, with rotated dimensions reordered to halves, and the scale of the scores in the query."""
    query, key, value = (tensors[f"{attention}.{name}_proj.weight"] for name in "qkv")
    return np.concatenate((halves(config, query) * scale_of(config.head_dim), halves(config, key), value))


def halves(config: ModelConfig | StreamingConfig, weight: np.ndarray) -> np.ndarray:
    """Reorder each head's rotated rows from pairs (0 1)(2 3)… to halves (0 2 …)(1 3 …); products of q and k are the same."""
    order = np.arange(config.head_dim)
    order[: config.rotary_dim] = np.concatenate((np.arange(0, config.rotary_dim, 2), np.arange(1, config.rotary_dim, 2)))
    return weight.reshape(config.heads, config.head_dim, -1)[:, order].reshape(weight.shape)


def rotary_table(config: ModelConfig | StreamingConfig, positions: int) -> np.ndarray:
    """Return a cosine and a signed sine for every dimension, 1 and 0 where nothing rotates: float32 (positions, 2, head_dim)."""
    half, passed = config.rotary_dim // 2, config.head_dim - config.rotary_dim
    angles = np.arange(positions)[:, None] * config.rope_theta ** (-np.arange(half) / half)
    ones, zeros = np.ones((positions, passed)), np.zeros((positions, passed))
    cosine = np.concatenate((np.cos(angles), np.cos(angles), ones), axis=1)
    sine = np.concatenate((-np.sin(angles), np.sin(angles), zeros), axis=1)
    return np.stack((cosine, sine), axis=1).astype(np.float32)


def check_shapes(weights: Checkpoint) -> None:
    """Raise CheckpointError if a tensor is missing or has another shape than the configuration gives it."""
    for name, shape in expected_shapes(weights).items():
        if name not in weights.tensors:
            raise CheckpointError(f"the weights of {weights.model} do not fit its configuration: {name} is missing")
        if weights.tensors[name].shape != shape:
            raise CheckpointError(
                f"the weights of {weights.model} do not fit its configuration: "
                f"{name} has the shape {weights.tensors[name].shape}, not {shape}"
            )


def expected_shapes(weights: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that the checkpoint must have; a streaming one may have its own output projection."""
    config = weights.config
    if not isinstance(config, StreamingConfig):
        return shapes_of(config)
    own = {OUTPUT: (config.vocabulary, config.dim)} if OUTPUT in weights.tensors else {}
    return streaming_parameters.shapes_of(config) | own


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint, by its name in transformers' `MoonshineForConditionalGeneration`."""
    dim, inner = config.dim, config.mlp_dim
    shapes: dict[str, tuple[int, ...]] = {
        f"{ENCODER}conv1.weight": (dim, 1, 127),
        f"{ENCODER}groupnorm.weight": (dim,),
        f"{ENCODER}groupnorm.bias": (dim,),
        f"{ENCODER}conv2.weight": (2 * dim, dim, 7),
        f"{ENCODER}conv2.bias": (2 * dim,),
        f"{ENCODER}conv3.weight": (dim, 2 * dim, 3),
        f"{ENCODER}conv3.bias": (dim,),
        f"{ENCODER}layer_norm.weight": (dim,),
        f"{DECODER}norm.weight": (dim,),
        f"{DECODER}embed_tokens.weight": (config.vocabulary, dim),
    }
    sides = (
        (ENCODER, config.encoder_layers, ("self_attn",), ("input", "post_attention"), inner),
        (DECODER, config.decoder_layers, ("self_attn", "encoder_attn"), ("input", "post_attention", "final"), 2 * inner),
    )
    for side, layers, attentions, norms, first in sides:
        for layer in (f"{side}layers.{index}." for index in range(layers)):
            shapes |= {f"{layer}{attention}.{each}_proj.weight": (dim, dim) for attention in attentions for each in "qkvo"}
            shapes |= {f"{layer}{norm}_layernorm.weight": (dim,) for norm in norms}
            shapes |= mlp_shapes(layer, dim, inner, first)
    return shapes
