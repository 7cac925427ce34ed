"""sherpa-onnx with the Base weights of moonshine-cpp on files given as arguments (.npy, float32); prints one JSON line.

Stands alone. The weights are found in the moonshine_cpp package, which need not be importable.
"""

import base64
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sherpa_onnx

SAMPLE_RATE = 16_000
LONG_ENTRY = 128  # with this first byte or a higher one, the length takes two bytes


def entries(data: bytes) -> Iterator[bytes]:
    """Yield the entries of tokenizer.bin: each is a length, in one byte or two, and that many bytes."""
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= LONG_ENTRY:
            length, at = length - LONG_ENTRY + LONG_ENTRY * data[at], at + 1
        yield data[at : at + length]
        at += length


def write_tokens(weights: Path, path: Path) -> None:
    """Write tokens in the format of sherpa-onnx: base64 of each token, and its id."""
    tokens = entries((weights / "tokenizer.bin").read_bytes())
    path.write_text("".join(f"{base64.b64encode(token).decode()} {number}\n" for number, token in enumerate(tokens)))


def main() -> None:
    weights = Path(importlib.util.find_spec("moonshine_cpp").origin).parent / "models" / "base-en"
    with tempfile.TemporaryDirectory() as directory:
        tokens = Path(directory) / "tokens.txt"
        write_tokens(weights, tokens)
        recogniser = sherpa_onnx.OfflineRecognizer.from_moonshine_v2(
            encoder=str(weights / "encoder_model.ort"),
            decoder=str(weights / "decoder_model_merged.ort"),
            tokens=str(tokens),
            num_threads=os.cpu_count(),
        )

    def transcribe(samples: np.ndarray) -> str:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        recogniser.decode_stream(stream)
        return stream.result.text

    clips = [np.load(path) for path in sys.argv[1:]]
    transcribe(clips[0])
    began = time.perf_counter()
    texts = [transcribe(samples) for samples in clips]
    print(json.dumps({"seconds": time.perf_counter() - began, "texts": texts}))


if __name__ == "__main__":
    main()
