"""The known clip, which every engine is tried on, is transcribed in float32 here for later comparison."""

import tempfile
from pathlib import Path

import onnx

from engine_build import graphs
from engine_build.checkpoint import Checkpoint
from engine_build.options import BuildError
from runtime.engine import known_clip
from runtime.engine.manifest import Manifest
from runtime.engine.onnx_engine import OnnxEngine
from runtime.exceptions import EngineFailed


def known_tokens(weights: Checkpoint, built: Manifest) -> tuple[int, ...]:
    """Return the tokens without start and end, by ONNX Runtime. built: of the same weights.

    Raises CheckpointError for weights that do not fit their configuration, BuildError for weights that give no numbers.
    """
    with tempfile.TemporaryDirectory() as directory:
        for name, model in graphs.models(weights, "fp32").items():
            onnx.save(model, Path(directory) / name)
        engine = OnnxEngine(Path(directory), built, max_batch=1)
        try:
            return tuple(known_clip.transcribe(engine, slot=0))
        except EngineFailed as exc:
            raise BuildError(f"the weights of {weights.model} cannot be used: they predict what is no number") from exc
        finally:
            engine.close()
