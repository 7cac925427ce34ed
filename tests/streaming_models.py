"""Checkpoints of Moonshine's streaming architecture: random ones of any shape, and the one that knows six recordings by heart."""

import fcntl
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MoonshineStreamingConfig, MoonshineStreamingForConditionalGeneration

from engine_build import build, checkpoint
from runtime.engine import manifest, selection
from runtime.engine.manifest import NATIVE, ONNXRUNTIME, TORCH
from runtime.engine.protocol import Engine
from runtime.engine.torch_engine import open_torch
from tests.conftest import ENGINES
from tests.learned import LEARNED

ODD: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 24,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 2 / 3},
    "encoder_config": {
        "hidden_size": 120,
        "intermediate_size": 192,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "sliding_windows": [[16, 4], [16, 0], [12, 1], [16, 0], [16, 4]],
    },
}
"""Every width is another one, none is a power of two, and windows differ."""


def save_random(config: dict[str, Any], directory: Path) -> MoonshineStreamingForConditionalGeneration:
    """Write a checkpoint with random weights, large enough to matter; returns it as transformers has it."""
    torch.manual_seed(5)
    model = MoonshineStreamingForConditionalGeneration(MoonshineStreamingConfig(decoder_start_token_id=1, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
            elif parameter.ndim:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    pieces = json.loads((LEARNED / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(pieces))
    return model.requires_grad_(False)


def open_built(model: Path, target: str, precision: str, *options: str, max_batch: int = 8, max_streams: int = 0) -> Engine:
    """Build an engine where it is not built, and open it."""
    directory = built(model, target, precision, *options)
    if target == TORCH:
        return open_torch(directory, manifest.load(directory, str(model), target, precision, max_batch), max_batch, device="cpu")
    choice = selection.Choice(directory, str(model), target, precision, remark=None)
    return selection.open_engine(choice, max_batch, max_streams=max_streams)[0]


def built(model: Path, target: str, precision: str, *options: str) -> Path:
    """Build an engine where it is not built; returns its directory."""
    arguments = ["--model", str(model), "--target", target, "--precision", precision, "--out", str(ENGINES), *options]
    ENGINES.mkdir(exist_ok=True)
    with (ENGINES / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        assert build.main(arguments) == 0
    return ENGINES / manifest.directory_name(str(model), target, precision)


def best_target() -> tuple[str, str]:
    """The target and precision that a server takes on this processor."""
    return (ONNXRUNTIME, "fp32") if selection.why_not_native("int8") else (NATIVE, "int8")


def encoded(model: MoonshineStreamingForConditionalGeneration, samples: np.ndarray) -> torch.Tensor:
    """The encoder's output for audio alone, float (1, frames, dim)."""
    audio = torch.from_numpy(samples[: len(samples) // 80 * 80])[None]
    mask = torch.ones(audio.shape, dtype=torch.long)  # without it transformers applies no window
    return model.model.encoder(audio, attention_mask=mask).last_hidden_state


def log_probs(model: MoonshineStreamingForConditionalGeneration, samples: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """float (tokens, vocabulary): the logarithms of what may follow each of these tokens."""
    outputs = types.SimpleNamespace(
        last_hidden_state=encoded(model, samples).clone(),  # the decoder adds to it in place
        attention_mask=None,
        hidden_states=None,
        attentions=None,
    )
    logits = model(encoder_outputs=outputs, decoder_input_ids=torch.tensor([list(tokens)])).logits[0]
    return torch.log_softmax(logits, dim=-1).numpy()


def greedy(model: MoonshineStreamingForConditionalGeneration, samples: np.ndarray, most: int) -> list[int]:
    """The tokens that greedy decoding gives, without the start token, up to the end token or `most`."""
    tokens = [1]
    while len(tokens) <= most and tokens[-1] != 2:
        tokens.append(int(log_probs(model, samples, tokens)[-1].argmax()))
    return tokens[1:]


def load_checkpoint(directory: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(str(directory), say=print)
