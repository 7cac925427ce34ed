"""Moonshine in transformers, from the same weights: the reference in tests and the peer in benchmarks."""

import torch
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from engine_build import checkpoint


def load(name: str = checkpoint.DEFAULT_MODEL) -> MoonshineForConditionalGeneration:
    """Load a model in float32. Raises CheckpointError if its weights are not available, RuntimeError if they do not fit."""
    weights = checkpoint.load(name, say=lambda line: None)
    shape = weights.config
    factor = shape.rotary_dim / shape.head_dim + 1e-6  # transformers rounds down
    config = MoonshineConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=shape.mlp_dim,
        encoder_num_attention_heads=shape.heads,
        decoder_num_attention_heads=shape.heads,
        encoder_num_hidden_layers=shape.encoder_layers,
        decoder_num_hidden_layers=shape.decoder_layers,
        max_position_embeddings=shape.max_positions,
        partial_rotary_factor=factor,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta, "partial_rotary_factor": factor},
    )
    model = MoonshineForConditionalGeneration(config).eval()
    state = {name: torch.tensor(tensor) for name, tensor in weights.tensors.items()}
    loaded = model.load_state_dict(state, strict=False)
    if set(loaded.missing_keys) - {"proj_out.weight"} or loaded.unexpected_keys:  # only the tied projection may be missing
        raise RuntimeError(f"weights and model do not fit: {loaded}")
    model.tie_weights()
    return model
