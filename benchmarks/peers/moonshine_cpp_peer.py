"""moonshine-cpp on files given as arguments (.npy, float32); prints one JSON line. Stands alone."""

import ctypes
import json
import sys
import time

import moonshine_cpp
import numpy as np


def main() -> None:
    clips = [np.load(path) for path in sys.argv[1:]]
    audio = [(ctypes.c_float * len(clip))(*clip.tolist()) for clip in clips]
    model = moonshine_cpp.MoonshineModel()
    model.transcribe(audio[0])
    began = time.perf_counter()
    texts = [model.transcribe(samples) for samples in audio]
    print(json.dumps({"seconds": time.perf_counter() - began, "texts": texts}))


if __name__ == "__main__":
    main()
