"""The model as ONNX: one file for the encoder, one for the decoder block, in one precision."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from engine_build.checkpoint import ModelConfig

OPSET = 20  # LayerNormalization (17) and Gelu (20) as single operators


def encoder_input_names() -> list[str]:
    return ["audio", "lengths"]


def encoder_output_names() -> list[str]:
    return ["cross_kv", "frames"]


def decoder_input_names(config: ModelConfig) -> list[str]:
    caches = ("past_key", "past_value", "cross_key", "cross_value")
    return ["tokens", "past_lengths", "frames", "end_bias"] + [
        f"{cache}.{layer}" for layer in range(config.decoder_layers) for cache in caches
    ]


def decoder_output_names() -> list[str]:
    return ["next_tokens", "log_probs", "new_kv"]


def export_encoder(encoder: nn.Module, path: Path) -> None:
    batch, samples = Dim("batch", max=4096), Dim("samples", min=1024)
    example = (torch.zeros(2, 32_000), torch.tensor([32_000, 20_000]))
    to_onnx(
        encoder, example, path, encoder_input_names(), encoder_output_names(),
        ({0: batch, 1: samples}, {0: batch}),
    )  # fmt: skip


def export_decoder(decoder: nn.Module, config: ModelConfig, path: Path) -> None:
    batch, new = Dim("batch", max=4096), Dim("new", max=config.max_positions)
    past, frames = Dim("past", max=config.max_positions), Dim("frames", max=65_536)
    rows, new_tokens, past_positions, audio_frames = 2, 3, 5, 41

    def cache(positions: int) -> torch.Tensor:
        return torch.zeros(rows, config.heads, positions, config.head_dim)

    # Each a tensor of its own: the exporter takes one tensor given twice for one input.
    caches = [
        cache(positions)
        for _ in range(config.decoder_layers)
        for positions in (past_positions, past_positions, audio_frames, audio_frames)
    ]
    axes = [{0: batch, 2: past}, {0: batch, 2: past}, {0: batch, 2: frames}, {0: batch, 2: frames}]
    example = (
        torch.ones(rows, new_tokens, dtype=torch.int64), torch.tensor([5, 0]), torch.tensor([41, 20]), torch.zeros(rows),
        *caches,
    )  # fmt: skip
    per_row = {0: batch}
    to_onnx(
        decoder, example, path, decoder_input_names(config), decoder_output_names(),
        ({0: batch, 1: new}, per_row, per_row, per_row, tuple(axes * config.decoder_layers)),
    )  # fmt: skip


def to_onnx(module, example, path: Path, inputs: list[str], outputs: list[str], dynamic_shapes) -> None:
    with quiet_exporter():
        torch.onnx.export(
            module, example, path, input_names=inputs, output_names=outputs, dynamic_shapes=dynamic_shapes,
            opset_version=OPSET, dynamo=True, external_data=False, optimize=True, verbose=False,
        )  # fmt: skip


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter talks about itself on every channel there is; its errors are raised, not printed."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
