"""The streaming models' graphs that the package has compute what the networks compute, with the same weights."""

import numpy as np
import onnxruntime
import pytest
import torch

from engine_build import export, graphs
from engine_build.streaming_model import build_encoder
from engine_build.streaming_parameters import EXCLUSIVE, INCLUSIVE, tiny
from runtime.audio import STREAMING_FRAME_SAMPLES
from runtime.engine.manifest import ENCODER_FILE


@pytest.mark.parametrize("reading", [EXCLUSIVE, INCLUSIVE])
def test_the_stored_encoder_computes_what_the_network_computes(reading):
    weights = export.made_up(tiny(reading))
    for tensor in weights.tensors.values():
        tensor *= np.float32(0.05 if tensor.ndim > 1 else 0.1)
    encoder = build_encoder(weights)
    session = onnxruntime.InferenceSession(graphs.models(weights, "fp32")[ENCODER_FILE].SerializeToString())
    random, rows, frames = np.random.default_rng(0), 3, 25
    feed = {
        "audio": random.standard_normal((rows, frames * STREAMING_FRAME_SAMPLES), np.float32) * np.float32(0.1),
        "counts": np.array([25, 0, 13]),
        "before": np.array([0, 40, 7]),
        "state": random.standard_normal((rows, weights.config.state_size), np.float32),
    }
    cross_kv, state = session.run(None, feed)
    with torch.inference_mode():
        expected_kv, expected_state = encoder(*map(torch.from_numpy, feed.values()))
    last = encoder.provisional + 13
    assert np.allclose(cross_kv[:, :, 0], expected_kv[:, :, 0], atol=1e-3) and cross_kv.shape == expected_kv.shape
    assert np.allclose(cross_kv[:, :, 2, :, :last], expected_kv[:, :, 2, :, :last], atol=1e-3)
    assert np.allclose(state, expected_state, atol=1e-3)
