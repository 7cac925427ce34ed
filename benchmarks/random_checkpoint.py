"""Checkpoints of Moonshine's streaming models with random weights, in their true shapes: for measuring costs, not words."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from engine_build.parameters import OUTPUT
from engine_build.streaming_parameters import MODEL_TYPE, StreamingConfig, medium, shapes_of, small, tiny

SIZES: dict[str, Callable[[], StreamingConfig]] = {"tiny": tiny, "small": small, "medium": medium}


def provide(size: str, directory: Path, pieces: Sequence[str]) -> Path:
    """Write a checkpoint in a directory if it is not there yet; returns its own directory. pieces: the vocabulary."""
    out = directory / f"streaming-{size}-random"
    if (out / "config.json").is_file():
        return out
    config, random = SIZES[size](), np.random.default_rng(7)
    shapes = shapes_of(config) | {OUTPUT: (config.vocabulary, config.dim)}
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: numbers(name, shape, random) for name, shape in shapes.items()}, out / "model.safetensors")
    write_vocabulary(out, pieces)
    (out / "config.json").write_text(json.dumps(hub_config(config), indent=2))
    return out


def write_vocabulary(directory: Path, pieces: Sequence[str]) -> None:
    """Write a tokenizer.json from which a build reads the vocabulary."""
    vocabulary = {piece: token for token, piece in enumerate(pieces) if piece}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}, ensure_ascii=False) + "\n")


def numbers(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return random weights: a norm multiplies by about one, a product keeps the scale of its input."""
    if len(shape) < 2:
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        return np.asarray(mean + 0.1 * random.standard_normal(shape, np.float32), np.float32)
    return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))


def hub_config(config: StreamingConfig) -> dict[str, Any]:
    """Return the configuration as transformers writes it."""
    return {
        "model_type": MODEL_TYPE,
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.decoder_layers,
        "num_attention_heads": config.heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.positions,
        "decoder_start_token_id": config.start_token,
        "eos_token_id": config.end_token,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": config.rotary_dim / config.head_dim,
        },
        "encoder_config": {
            "hidden_size": config.encoder_dim,
            "intermediate_size": config.encoder_mlp_dim,
            "num_hidden_layers": config.encoder_layers,
            "num_attention_heads": config.encoder_heads,
            "head_dim": config.encoder_head_dim,
            "sliding_windows": [[past + 1, future + 1 if future else 0] for past, future in config.windows],
        },
    }
