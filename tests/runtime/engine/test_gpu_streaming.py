"""The torch engine of a streaming model on a GPU: with its graphs it gives what float32 gives on the processor."""

import numpy as np
import pytest

from runtime import hardware
from runtime.engine import manifest
from runtime.engine.manifest import TORCH
from runtime.engine.protocol import Row
from runtime.engine.torch_engine import open_torch
from tests import streaming_models
from tests.runtime.engine.test_streaming import TOKENS, noise
from tests.streaming_models import ODD, save_random

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(hardware.find_gpu() is None, reason="needs an NVIDIA GPU, and the driver shows none"),
]

STREAMS = 40
PRECISIONS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.2}
"""Largest difference of log-probabilities from float32's on the processor."""


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: f"{TORCH}-{precision}")
def test_streams_encoded_together_in_pieces_give_what_float32_gives(precision, tmp_path):
    model = save_random(ODD, tmp_path / "odd")
    directory = streaming_models.built(tmp_path / "odd", TORCH, precision)
    found = manifest.load(directory, str(tmp_path / "odd"), TORCH, precision, STREAMS)
    engine = open_torch(directory, found, STREAMS, compiles=False)
    audios = [noise(2000 + 1700 * slot, seed=slot) for slot in range(STREAMS)]
    for slot in range(STREAMS):
        engine.reset(slot)
    for begin in range(0, max(map(len, audios)), 9000):
        parts = {slot: audio[begin : begin + 9000] for slot, audio in enumerate(audios) if len(audio) > begin}
        engine.append(list(parts), list(parts.values()))
    together = engine.decode([Row(slot, TOKENS, 0) for slot in range(STREAMS)])
    assert engine.uncaptured_runs == 0 and engine.captured_shapes > 0
    for slot in (0, 7, STREAMS - 1):
        expected = streaming_models.log_probs(model, audios[slot], TOKENS).max(axis=1)
        assert np.abs(together[slot].log_probs - expected).max() < PRECISIONS[precision]
    engine.close()
