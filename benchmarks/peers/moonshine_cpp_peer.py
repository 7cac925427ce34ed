"""moonshine-cpp on files given as arguments (.npy, float32); prints one JSON line. Stands alone."""

import json
import sys
import time
import wave
from pathlib import Path

import moonshine_cpp
import numpy as np


def write_wav(path: Path) -> str:
    """Write a WAV file and return its name. The package's own call for samples fails (it uses ctypes.c_float_p), so it gets
    files; reading them takes little time."""
    samples = (np.load(path) * 32_768).astype(np.int16)
    name = str(path.with_suffix(".wav"))
    with wave.open(name, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return name


def main() -> None:
    names = [write_wav(Path(path)) for path in sys.argv[1:]]
    model = moonshine_cpp.MoonshineModel()
    model.transcribe_wav(names[0])
    began = time.perf_counter()
    texts = [model.transcribe_wav(name) for name in names]
    print(json.dumps({"seconds": time.perf_counter() - began, "texts": texts}))


if __name__ == "__main__":
    main()
