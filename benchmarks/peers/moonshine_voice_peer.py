"""moonshine-voice with the Base weights of moonshine-cpp on files given as arguments (.npy, float32); prints one JSON line.

Stands alone. The weights are found in the moonshine_cpp package, which need not be importable.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
from moonshine_voice import ModelArch, Transcriber


def main() -> None:
    weights = Path(importlib.util.find_spec("moonshine_cpp").origin).parent / "models" / "base-en"
    clips = [np.load(path).tolist() for path in sys.argv[1:]]
    transcriber = Transcriber(model_path=str(weights), model_arch=ModelArch.BASE)
    transcriber.transcribe_without_streaming(clips[0])
    began = time.perf_counter()
    found = [transcriber.transcribe_without_streaming(samples) for samples in clips]
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "texts": [" ".join(line.text for line in each.lines) for each in found]}))


if __name__ == "__main__":
    main()
