"""smart-turn: predicts from the last eight seconds of audio whether a speaker has finished.

https://github.com/pipecat-ai/smart-turn, BSD-2-Clause. An encoder of the shape of Whisper Tiny's, in int8, run by ONNX Runtime.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.exceptions import EngineDirectoryError
from runtime.turns.log_mel import log_mel


class TurnModel:
    """The turn model. Used by one thread at a time."""

    def __init__(self, path: Path):
        """Raises EngineDirectoryError if the file is no usable model."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime has a class for each kind of file that it cannot read
            raise EngineDirectoryError(f"{path} is no model of turns that can be used: {exc}") from exc
        self._input = self._session.get_inputs()[0].name

    def probabilities(self, recordings: Sequence[np.ndarray]) -> list[float]:
        """Return for each recording the probability that its speaker has finished. recordings: int16 (samples,) each, 16 kHz."""
        features = np.stack([log_mel(samples) for samples in recordings])
        (found,) = self._session.run(None, {self._input: features})
        return [float(probability) for probability in found[:, 0]]
