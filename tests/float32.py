"""What the float32 engine makes of the evaluation clips: what other engines, also on machines without it, are held against.

python -m tests.float32 writes it anew.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.audio import Clip
from runtime.engine.protocol import Engine
from runtime.scheduler.alignment import first_frames
from tests import greedy
from tests.conftest import PROJECT, Speech

FILE = PROJECT / "tests" / "data" / "eval" / "float32.json"


@dataclass(frozen=True)
class Heard:
    tokens: list[int]
    first_frames: list[int]


def hear(engine: Engine, clip: Speech, slot: int = 0) -> Heard:
    tokens = greedy.decode(engine, Clip(clip.samples)).tokens
    engine.encode([slot], [Clip(clip.samples)])
    firsts = first_frames(engine.align([slot], [tokens]).result()[0])
    engine.free(slot)
    return Heard(tokens, list(firsts))


def read(file: Path = FILE) -> dict[str, Heard]:
    """By name of the clip."""
    return {name: Heard(**each) for name, each in json.loads(file.read_text()).items()}


def main() -> None:
    from benchmarks.harness.accuracy import evaluation_clips
    from moonshine_client import audio_file
    from tests import engines

    opened = engines.open_onnx("fp32", engines.builder())
    clips = [Speech(clip.path.stem, audio_file.load(clip.path), clip.text) for clip in evaluation_clips()]
    FILE.write_text(json.dumps({clip.name: asdict(hear(opened.engine, clip)) for clip in clips}, indent=None) + "\n")


if __name__ == "__main__":
    main()
