"""The torch target: the modules as exported torch programs, which run without this package."""

from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from engine_build import export as onnx_export
from engine_build.checkpoint import Checkpoint
from engine_build.model import build_decoder
from engine_build.options import BuildOptions, Stages
from engine_build.packed_encoder import PackedEncoder
from engine_build.parameters import MAX_SECONDS
from engine_build.streaming_model import build_encoder
from engine_build.streaming_parameters import StreamingConfig
from runtime import audio
from runtime.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from runtime.engine.manifest import ALIGNER_PROGRAM, DECODER_PROGRAM, ENCODER_PROGRAM, PACKED_ENCODER_PROGRAM, Manifest
from runtime.engine.shapes import MOST_ENCODER_ROWS

PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
PACKAGES = ("torch",)
MIN_SAMPLES = 1279  # two frames: the tracer treats one as a constant; the engine's shortest shape is far longer


def write(options: BuildOptions, weights: Checkpoint, built: Manifest, directory: Path, stages: Stages) -> Manifest:
    """Write the programs of the encoder (in one or two forms), the decoder and the aligner. Raises CheckpointError."""
    precision = options.precision
    if isinstance(weights.config, StreamingConfig):
        write_streaming_encoder(weights, precision, directory, stages)
    else:
        write_clip_encoders(weights, precision, directory, stages)
    dtype = onnx_export.DTYPES[precision]
    decoder, aligner = build_decoder(weights)
    decoder, aligner = decoder.to(dtype), aligner.to(dtype)
    stages.begin(f"export the decoder in {precision}")
    save_program(decoder, *onnx_export.decoder_example(decoder, weights.config), directory / DECODER_PROGRAM)
    stages.begin(f"export the aligner in {precision}")
    save_program(aligner, *onnx_export.aligner_example(aligner, weights.config), directory / ALIGNER_PROGRAM)
    return built


def write_clip_encoders(weights: Checkpoint, precision: str, directory: Path, stages: Stages) -> None:
    encoder, _, _ = onnx_export.modules(weights, precision)
    stages.begin(f"export the encoder in {precision}")
    save_program(encoder, *onnx_export.encoder_example(MIN_SAMPLES, int(MAX_SECONDS * SAMPLE_RATE)), directory / ENCODER_PROGRAM)
    stages.begin(f"export the packed encoder in {precision}")
    longest_frames = audio.count_frames(int(MAX_SECONDS * SAMPLE_RATE))
    save_program(PackedEncoder(encoder, longest_frames), *packed_example(), directory / PACKED_ENCODER_PROGRAM)


def write_streaming_encoder(weights: Checkpoint, precision: str, directory: Path, stages: Stages) -> None:
    stages.begin(f"export the encoder in {precision}")
    encoder = build_encoder(weights).to(onnx_export.DTYPES[precision])
    save_program(encoder, *onnx_export.streaming_example(encoder), directory / ENCODER_PROGRAM)


def check_machine() -> None:
    """Always pass: nothing is needed besides the packages."""


def is_current(options: BuildOptions, built: Manifest) -> bool:
    """Always true: programs suit any machine that has their version of torch."""
    return True


def packed_example() -> tuple[tuple, tuple]:
    """Return inputs to trace the packed encoder with, and their dimensions that may change."""
    pcm, per_row = torch.zeros(100 * SAMPLES_PER_FRAME, dtype=torch.int16), torch.zeros(MOST_ENCODER_ROWS, dtype=torch.int64)
    starts = torch.zeros(MOST_ENCODER_ROWS + 1, dtype=torch.int32)
    loudness = torch.zeros(MOST_ENCODER_ROWS)
    inputs = (pcm, torch.from_numpy(audio.DITHER), starts, per_row, per_row.clone(), loudness, loudness.clone())
    return inputs, ({0: SAMPLES_PER_FRAME * Dim("frames", min=2, max=1_000_000)}, *[None] * 6)


def save_program(module: nn.Module, example: tuple, dynamic_shapes: tuple, path: Path) -> None:
    with onnx_export.quiet_exporter():
        program = torch.export.export(
            module, example, dynamic_shapes=dynamic_shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        drop_assertions(program.graph_module)
        torch.export.save(program, path)


def drop_assertions(graph_module: torch.fx.GraphModule) -> None:
    """Remove the tracer's assertions on sizes: they fail on a batch of one, because the tracer had not seen its strides."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and "assert" in str(node.target):
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
