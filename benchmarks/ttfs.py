"""Measures the time to the final segment with pipecat's own services: from the end of speech to the last final."""

import json
import os
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.servers import PROJECT
from benchmarks.speech_sets import Clip
from runtime.audio import SAMPLE_RATE

SETS = ("vctk", "speechocean_l2")  # sets of sentences
SERVICES = ("deepgram", "flux", "openai")
SECONDS_EACH = 60.0  # limit for one recording


@dataclass(frozen=True)
class ServiceTtfs:
    """Figures of one of pipecat's services."""

    service: str
    finals: int
    recordings: int
    p50_ms: float
    p95_ms: float


def measure(python: Path, address: str, clips: Sequence[Clip], service: str) -> ServiceTtfs:
    """Measure one service. python: the interpreter of an environment with pipecat. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [written(clip, Path(directory) / f"{number}.wav") for number, clip in enumerate(clips)]
        command = [str(python), str(PROJECT / "benchmarks" / "peers" / "pipecat_ttfs.py"), address, service, *map(str, paths)]
        environment = os.environ | {"NO_PROXY": "*", "no_proxy": "*"}
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS_EACH * (1 + len(clips))
        )
    found = [json.loads(line)["ttfs_ms"] for line in done.stdout.splitlines() if line.startswith("{")]
    times = [each for each in found if each is not None and each > 0]
    p50, p95 = np.percentile(times, (50, 95)) if times else (np.nan, np.nan)
    return ServiceTtfs(service, len(times), len(clips), round(float(p50)), round(float(p95)))


def written(clip: Clip, path: Path) -> Path:
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(SAMPLE_RATE)
        recording.writeframes(clip.samples.tobytes())
    return path
