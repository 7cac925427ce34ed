"""Writes the networks' graphs of engine_build/graphs from engine_build/model.py: python scripts/make_graphs.py (needs torch)"""

import gzip
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[0] = str(PROJECT)  # run as a script: its own folder is on the path, the project is not

from engine_build import export, graphs  # noqa: E402


def main() -> None:
    for folder, config in graphs.SHAPES.items():
        for precision in graphs.precisions_of(config):
            for name, model in export.graphs(config, precision).items():
                path = graphs.path_of(folder, precision, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(gzip.compress(model.SerializeToString(deterministic=True), mtime=0))
                print(path.relative_to(PROJECT), path.stat().st_size)


if __name__ == "__main__":
    main()
