"""The model as ONNX: one file each for encoder, decoder block and aligner, in one precision."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from engine_build import verification
from engine_build.checkpoint import Checkpoint, CheckpointError, ModelConfig
from engine_build.model import Aligner, Decoder, Encoder, build_modules
from engine_build.options import BuildError, Stages
from engine_build.scripts import forbidden_tokens
from runtime.audio import SAMPLE_RATE, count_frames
from runtime.engine.manifest import ALIGNER_FILE, DECODER_FILE, ENCODER_FILE

OPSET = 20  # LayerNormalization (17) and Gelu (20) as single operators
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Between an export in ONNX Runtime and the float32 PyTorch model: of keys, values and log-probabilities. ONNX Runtime has no
# bfloat16 on a CPU; there the torch engine's tests stand in.
LARGEST_DIFFERENCES = {"fp32": 1e-3, "fp16": 0.1}


def export(weights: Checkpoint, precision: str, directory: Path, max_seconds: float, stages: Stages) -> None:
    """Write encoder.onnx, decoder.onnx and aligner.onnx in `precision` and hold them against PyTorch.

    Raises CheckpointError for weights that do not fit their configuration, BuildError for an export that differs.
    """
    reference = modules(weights, "fp32", max_seconds)
    encoder, decoder, aligner = reference if precision == "fp32" else modules(weights, precision, max_seconds)
    stages.begin(f"export the encoder in {precision}")
    export_encoder(encoder, directory / ENCODER_FILE)
    stages.begin(f"export the decoder in {precision}")
    export_decoder(decoder, weights.config, directory / DECODER_FILE)
    stages.begin(f"export the aligner in {precision}")
    export_aligner(aligner, weights.config, directory / ALIGNER_FILE)
    if precision in LARGEST_DIFFERENCES:
        stages.begin("check the export against PyTorch")
        difference = verification.largest_difference(
            *reference, directory, decoder_input_names(weights.config), aligner_input_names(aligner)
        )
        if difference > LARGEST_DIFFERENCES[precision]:
            raise BuildError(
                f"the export differs from PyTorch by {difference:.2g}; at most {LARGEST_DIFFERENCES[precision]} was expected"
            )


def modules(weights: Checkpoint, precision: str, max_seconds: float) -> tuple[Encoder, Decoder, Aligner]:
    """The PyTorch modules with the weights in `precision`."""
    max_frames = count_frames(int(max_seconds * SAMPLE_RATE))
    try:
        built = build_modules(weights.config, weights.tensors, max_frames)
    except (KeyError, RuntimeError) as exc:
        raise CheckpointError(f"the weights of {weights.model} do not fit its configuration: {exc}") from exc
    encoder, decoder, aligner = built
    decoder.forbid(forbidden_tokens(weights.pieces, weights.script))
    return tuple(module.to(DTYPES[precision]) for module in (encoder, decoder, aligner))


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


def aligner_input_names(aligner: Aligner) -> list[str]:
    caches = [f"{cache}.{layer}" for layer in range(len(aligner.layers)) for cache in ("cross_key", "cross_value")]
    return ["tokens", "frames", *caches[:-1]]  # what the last layer heard is all that is asked of it


def aligner_output_names() -> list[str]:
    return ["share"]


def export_encoder(encoder: nn.Module, path: Path) -> None:
    to_onnx(encoder, *encoder_example(), path, encoder_input_names(), encoder_output_names())


def export_decoder(decoder: Decoder, config: ModelConfig, path: Path) -> None:
    to_onnx(decoder, *decoder_example(decoder, config), path, decoder_input_names(config), decoder_output_names())


def export_aligner(aligner: Aligner, config: ModelConfig, path: Path) -> None:
    to_onnx(aligner, *aligner_example(aligner, config), path, aligner_input_names(aligner), aligner_output_names())


def encoder_example(min_samples: int = 1024, max_samples: int | None = None) -> tuple[tuple, tuple]:
    """Inputs to trace the encoder with, and which of their dimensions may change."""
    batch, samples = Dim("batch", max=4096), Dim("samples", min=min_samples, max=max_samples)
    return (torch.zeros(2, 32_000), torch.tensor([32_000, 20_000])), ({0: batch, 1: samples}, {0: batch})


def decoder_example(decoder: Decoder, config: ModelConfig) -> tuple[tuple, tuple]:
    """Inputs to trace the decoder with, and which of their dimensions may change."""
    batch, new = Dim("batch", max=4096), Dim("new", max=config.max_positions)
    past, frames = Dim("past", max=4096), Dim("frames", max=65_536)
    rows, new_tokens, past_positions, audio_frames = 2, 3, 5, 41
    dtype = decoder.embed_tokens.weight.dtype

    def cache(positions: int) -> torch.Tensor:
        return torch.zeros(rows, config.heads, positions, config.head_dim, dtype=dtype)

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
    return example, ({0: batch, 1: new}, per_row, per_row, per_row, tuple(axes * config.decoder_layers))


def aligner_example(aligner: Aligner, config: ModelConfig) -> tuple[tuple, tuple]:
    """Inputs to trace the aligner with, and which of their dimensions may change."""
    batch, new, frames = Dim("batch", max=4096), Dim("new", max=config.max_positions), Dim("frames", max=65_536)
    dtype, count = aligner.embed_tokens.weight.dtype, 2 * len(aligner.layers) - 1
    caches = [torch.zeros(2, config.heads, 41, config.head_dim, dtype=dtype) for _ in range(count)]
    example = (torch.ones(2, 3, dtype=torch.int64), torch.tensor([41, 20]), *caches)
    return example, ({0: batch, 1: new}, {0: batch}, tuple({0: batch, 2: frames} for _ in caches))


def to_onnx(module: nn.Module, example: tuple, dynamic_shapes: tuple, path: Path, inputs: list[str], outputs: list[str]) -> None:
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
