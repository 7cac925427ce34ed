"""Moonshine in transformers, from the same weights: the reference in tests and the peer in benchmarks."""

import torch
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from engine_build import checkpoint
from engine_build.checkpoint import BASE_CONFIG


def load_base() -> MoonshineForConditionalGeneration:
    """Moonshine Base in float32. Raises CheckpointError where its weights cannot be had, RuntimeError where they do not fit."""
    weights = checkpoint.load(checkpoint.DEFAULT_MODEL, say=lambda line: None)
    factor = BASE_CONFIG.rotary_dim / BASE_CONFIG.head_dim + 1e-6  # transformers rounds down
    config = MoonshineConfig(
        vocab_size=BASE_CONFIG.vocabulary, hidden_size=BASE_CONFIG.dim, intermediate_size=BASE_CONFIG.mlp_dim,
        encoder_num_hidden_layers=BASE_CONFIG.encoder_layers, decoder_num_hidden_layers=BASE_CONFIG.decoder_layers,
        max_position_embeddings=BASE_CONFIG.max_positions, partial_rotary_factor=factor,
        rope_parameters={"rope_type": "default", "rope_theta": BASE_CONFIG.rope_theta, "partial_rotary_factor": factor},
    )  # fmt: skip
    model = MoonshineForConditionalGeneration(config).eval()
    state = {name: torch.tensor(tensor) for name, tensor in weights.tensors.items()}
    loaded = model.load_state_dict(state, strict=False)
    if set(loaded.missing_keys) - {"proj_out.weight"} or loaded.unexpected_keys:  # only the tied projection is implied
        raise RuntimeError(f"weights and model do not fit: {loaded}")
    model.tie_weights()
    return model
