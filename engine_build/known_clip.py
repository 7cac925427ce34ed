"""Transcribes the known clip in float32, for the later test of every engine."""

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from engine_build import graphs
from engine_build.checkpoint import Checkpoint
from engine_build.options import BuildError
from runtime.engine import known_clip
from runtime.engine.manifest import Manifest
from runtime.engine.onnx_clip_engine import OnnxClipEngine
from runtime.engine.onnx_stream_engine import OnnxStreamEngine
from runtime.exceptions import EngineFailed
from runtime.tokenizer import Tokenizer


def known_tokens(weights: Checkpoint, built: Manifest) -> tuple[int, ...]:
    """Return the tokens without start and end, by ONNX Runtime. built: the manifest of the same weights.

    There are none if the model does not understand the clip, for example because it is for another language or not fully trained:
    its output may then differ in another precision.
    Raises CheckpointError for weights that do not fit their configuration, BuildError for weights that give a NaN or infinity.
    """
    with tempfile.TemporaryDirectory() as directory:
        for name, model in graphs.models(weights, "fp32").items():
            onnx.save(model, Path(directory) / name)
        kind = OnnxStreamEngine if built.stream_encoder else OnnxClipEngine
        engine = kind(Path(directory), built, max_batch=1)
        try:
            tokens = tuple(known_clip.transcribe(engine, slot=0))
            return tokens if is_said(weights, tokens) else ()
        except EngineFailed as exc:
            raise BuildError(f"the weights of {weights.model} cannot be used: they predict what is no number") from exc
        finally:
            engine.close()


def is_said(weights: Checkpoint, tokens: Sequence[int]) -> bool:
    text = Tokenizer(weights.pieces).text(tokens).lower()
    return difflib.SequenceMatcher(None, text, known_clip.SAID.lower(), autojunk=False).ratio() >= known_clip.LEAST_ALIKE
