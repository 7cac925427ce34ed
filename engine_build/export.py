"""Export of the networks' graphs from PyTorch, for scripts/make_graphs.py and for the build of a shape that has no graphs yet."""

import contextlib
import functools
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import nn
from torch.export import Dim

from engine_build import streaming_parameters
from engine_build.checkpoint import Checkpoint, ModelConfig
from engine_build.graphs import strip
from engine_build.model import Aligner, Decoder, Encoder, build_decoder, build_modules
from engine_build.parameters import OUTPUT, decoder_parameters, encoder_parameters, shapes_of
from engine_build.streaming_model import StreamingEncoder, build_encoder
from engine_build.streaming_parameters import StreamingConfig
from runtime.audio import STREAMING_FRAME_SAMPLES
from runtime.engine.manifest import ALIGNER_FILE, DECODER_FILE, ENCODER_FILE
from runtime.engine.protocol import MAX_BIASED_TOKENS

OPSET = 20  # LayerNormalization (17) and Gelu (20) as single operators
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@functools.cache  # a build asks for them twice, and an export takes half a minute
def graphs(config: ModelConfig | StreamingConfig, precision: str) -> dict[str, ModelProto]:
    """Return encoder, decoder and aligner of a configuration without weights, by file name."""
    weights = made_up(config)
    of_encoder, of_decoder = encoder_parameters(weights), decoder_parameters(weights)
    decoder, aligner = build_decoder(weights)
    decoder, aligner = decoder.to(DTYPES[precision]), aligner.to(DTYPES[precision])
    found = {
        ENCODER_FILE: encoder_graph(weights, precision),
        DECODER_FILE: to_onnx(decoder, *decoder_example(decoder, config), decoder_input_names(config), decoder_output_names()),
        ALIGNER_FILE: to_onnx(aligner, *aligner_example(aligner, config), aligner_input_names(aligner), aligner_output_names()),
    }
    for name, model in found.items():
        strip(model, of_encoder if name == ENCODER_FILE else of_decoder, precision)
    return found


def encoder_graph(weights: Checkpoint, precision: str) -> ModelProto:
    if isinstance(weights.config, StreamingConfig):
        streaming = build_encoder(weights).to(DTYPES[precision])
        return to_onnx(streaming, *streaming_example(streaming), streaming_input_names(), streaming_output_names())
    encoder, _, _ = modules(weights, precision)
    return to_onnx(encoder, *encoder_example(), encoder_input_names(), encoder_output_names())


def made_up(config: ModelConfig | StreamingConfig) -> Checkpoint:
    """Return a checkpoint whose tensors all differ, so that each is found by its values, and the exporter merges no two."""
    random = np.random.default_rng(0)
    if isinstance(config, StreamingConfig):
        shapes = streaming_parameters.shapes_of(config) | {OUTPUT: (config.vocabulary, config.dim)}
    else:
        shapes = shapes_of(config)
    tensors = {name: np.asarray(random.standard_normal(shape, np.float32)) for name, shape in shapes.items()}
    pieces = tuple("a" if token % 2 else "б" for token in range(config.vocabulary))
    return Checkpoint("made up", "random numbers", "", config, tensors, pieces, "latin")


def modules(weights: Checkpoint, precision: str) -> tuple[Encoder, Decoder, Aligner]:
    """Return the PyTorch modules with the weights in `precision`. Raises CheckpointError for weights that do not fit."""
    encoder, decoder, aligner = build_modules(weights)
    return encoder.to(DTYPES[precision]), decoder.to(DTYPES[precision]), aligner.to(DTYPES[precision])


def streaming_input_names() -> list[str]:
    return ["audio", "counts", "before", "state"]


def streaming_output_names() -> list[str]:
    return ["cross_kv", "new_state"]


def streaming_example(encoder: StreamingEncoder) -> tuple[tuple, tuple]:
    """Return inputs to trace a streaming encoder with, and their dimensions that may change."""
    batch, frames = Dim("batch", max=4096), Dim("new", min=2, max=4096)
    state = torch.zeros(2, encoder.config.state_size, dtype=encoder.linear.weight.dtype)
    example = (torch.zeros(2, 7 * STREAMING_FRAME_SAMPLES), torch.tensor([7, 5]), torch.tensor([40, 0]), state)
    return example, ({0: batch, 1: STREAMING_FRAME_SAMPLES * frames}, {0: batch}, {0: batch}, {0: batch})


def encoder_input_names() -> list[str]:
    return ["audio", "lengths"]


def encoder_output_names() -> list[str]:
    return ["cross_kv", "frames"]


def decoder_input_names(config: ModelConfig | StreamingConfig) -> list[str]:
    caches = ("past_key", "past_value", "cross_key", "cross_value")
    return ["tokens", "past_lengths", "frames", "end_bias", "bias_lists", "biased_tokens", "biases"] + [
        f"{cache}.{layer}" for layer in range(config.decoder_layers) for cache in caches
    ]


def decoder_output_names() -> list[str]:
    return ["next_tokens", "log_probs", "new_kv"]


def aligner_input_names(aligner: Aligner) -> list[str]:
    caches = [f"{cache}.{layer}" for layer in range(len(aligner.layers)) for cache in ("cross_key", "cross_value")]
    return ["tokens", "frames", *caches[:-1]]  # only the attention of the last layer is needed


def aligner_output_names() -> list[str]:
    return ["share"]


def encoder_example(min_samples: int = 1024, max_samples: int | None = None) -> tuple[tuple, tuple]:
    """Return inputs to trace the encoder with, and their dimensions that may change."""
    batch, samples = Dim("batch", max=4096), Dim("samples", min=min_samples, max=max_samples)
    return (torch.zeros(2, 32_000), torch.tensor([32_000, 20_000])), ({0: batch, 1: samples}, {0: batch})


def decoder_example(decoder: Decoder, config: ModelConfig | StreamingConfig) -> tuple[tuple, tuple]:
    """Return inputs to trace the decoder with, and their dimensions that may change."""
    batch, new = Dim("batch", max=4096), Dim("new", max=config.max_positions)
    past, frames = Dim("past", max=4096), Dim("frames", max=65_536)
    lists, biased = Dim("lists", max=4096), Dim("biased", max=MAX_BIASED_TOKENS)
    rows, new_tokens, past_positions, audio_frames = 2, 3, 5, 41
    dtype = decoder.embed_tokens.weight.dtype

    def cache(positions: int) -> torch.Tensor:
        return torch.zeros(rows, config.heads, positions, config.head_dim, dtype=dtype)

    # Each is a separate tensor: the exporter treats a tensor that is given twice as one input.
    caches = [
        cache(positions)
        for _ in range(config.decoder_layers)
        for positions in (past_positions, past_positions, audio_frames, audio_frames)
    ]
    axes = [{0: batch, 2: past}, {0: batch, 2: past}, {0: batch, 2: frames}, {0: batch, 2: frames}]
    example = (
        torch.ones(rows, new_tokens, dtype=torch.int64),
        torch.tensor([5, 0]),
        torch.tensor([41, 20]),
        torch.zeros(rows),
        torch.zeros(rows, new_tokens, dtype=torch.int64),
        torch.zeros(4, 6, dtype=torch.int64),
        torch.zeros(4, 6),
        *caches,
    )
    per_row, per_token, per_bias = {0: batch}, {0: batch, 1: new}, {0: lists, 1: biased}
    axes_of_rows = (per_token, per_row, per_row, per_row, per_token, per_bias, per_bias)
    return example, (*axes_of_rows, tuple(axes * config.decoder_layers))


def aligner_example(aligner: Aligner, config: ModelConfig | StreamingConfig) -> tuple[tuple, tuple]:
    """Return inputs to trace the aligner with, and their dimensions that may change."""
    batch, new, frames = Dim("batch", max=4096), Dim("new", max=config.max_positions), Dim("frames", max=65_536)
    dtype, count = aligner.embed_tokens.weight.dtype, 2 * len(aligner.layers) - 1
    caches = [torch.zeros(2, config.heads, 41, config.head_dim, dtype=dtype) for _ in range(count)]
    example = (torch.ones(2, 3, dtype=torch.int64), torch.tensor([41, 20]), *caches)
    return example, ({0: batch, 1: new}, {0: batch}, tuple({0: batch, 2: frames} for _ in caches))


def to_onnx(module: nn.Module, example: tuple, dynamic_shapes: tuple, inputs: list[str], outputs: list[str]) -> ModelProto:
    with tempfile.TemporaryDirectory() as directory, quiet_exporter():
        path = Path(directory) / "exported.onnx"
        torch.onnx.export(
            module,
            example,
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
        return onnx.load(path)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which writes to the log, the warnings and stdout. Its errors are raised, not printed."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
