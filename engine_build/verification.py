"""Does the exported ONNX compute what the PyTorch model computes? Asked of every build, on made-up audio."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from engine_build.model import Aligner, Decoder, Encoder
from runtime.engine.manifest import ALIGNER_FILE, DECODER_FILE, ENCODER_FILE

SAMPLES = (40_000, 24_000)  # two rows of different length: the padding must not show
PAST_POSITIONS, NEW_TOKENS = 7, 4


def largest_difference(
    encoder: Encoder, decoder: Decoder, aligner: Aligner, directory: Path, decoder_inputs: list[str], aligner_inputs: list[str]
) -> float:
    """Of all outputs over a padded batch of two noisy tones; infinite where the chosen tokens differ."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(max(SAMPLES)) / 16_000
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (220.0, 330.0)])
    audio = 0.1 * tones + 0.05 * torch.randn(tones.shape, generator=generator)
    lengths = torch.tensor(SAMPLES)
    with torch.inference_mode():
        cross_kv, frames = encoder(audio, lengths)
        cache_shape = (len(SAMPLES), *cross_kv.shape[3:4], PAST_POSITIONS, cross_kv.shape[5])
        caches = []
        for key, value in cross_kv:
            past = [torch.randn(cache_shape, generator=generator) for _ in range(2)]
            caches += [*past, key.contiguous(), value.contiguous()]
        tokens = torch.randint(3, min(1000, decoder.config.vocabulary), (len(SAMPLES), NEW_TOKENS), generator=generator)
        inputs = (tokens, torch.tensor([PAST_POSITIONS, 0]), frames, torch.tensor([0.0, 6.0]), *caches)
        expected = decoder(*inputs)
        heard = [cache for layer in range(len(aligner.layers)) for cache in caches[4 * layer + 2 : 4 * layer + 4]][:-1]
        share = aligner(tokens, frames, *heard)
    encoded = run(directory / ENCODER_FILE, {"audio": audio, "lengths": lengths})
    decoded = run(directory / DECODER_FILE, dict(zip(decoder_inputs, inputs, strict=True)))
    aligned = run(directory / ALIGNER_FILE, dict(zip(aligner_inputs, (tokens, frames, *heard), strict=True)))
    if not np.array_equal(decoded[0], expected[0].numpy()):
        return float("inf")
    valid = int(frames.min())
    pairs = ((encoded[0][..., :valid, :], cross_kv[..., :valid, :]), (decoded[1], expected[1]), (decoded[2], expected[2]),
             (aligned[0], share))  # fmt: skip
    return max(float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in pairs)


def run(path: Path, inputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
    """float32 inputs are handed over in the type the export asks for."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    half = {each.name for each in session.get_inputs() if each.type == "tensor(float16)"}
    return session.run(None, {name: (each.half() if name in half else each).numpy() for name, each in inputs.items()})
