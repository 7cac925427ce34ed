"""What the model in float32 hears in the clip that every engine is tried on."""

import torch

from engine_build.checkpoint import Checkpoint
from engine_build.export import modules
from runtime.audio import to_float
from runtime.engine.known_clip import MOST_TOKENS, clip


def known_tokens(weights: Checkpoint, max_seconds: float) -> tuple[int, ...]:
    """Without start and end token, one after the other; the whole row is decoded anew for each. Raises CheckpointError."""
    encoder, decoder, _ = modules(weights, "fp32", max_seconds)
    config, heard = weights.config, torch.from_numpy(to_float(clip()))[None]
    tokens = [config.start_token]
    with torch.inference_mode():
        cross_kv, frames = encoder(heard, torch.tensor([heard.shape[1]]))
        nothing = torch.zeros(1, config.heads, 1, config.head_dim)
        caches = [cache for key, value in cross_kv for cache in (nothing, nothing, key, value)]
        while tokens[-1] != config.end_token and len(tokens) <= MOST_TOKENS:
            chosen, _, _ = decoder(torch.tensor([tokens]), torch.tensor([0]), frames, torch.tensor([0.0]), *caches)
            tokens.append(int(chosen[0, -1]))
    return tuple(token for token in tokens[1:] if token != config.end_token)
