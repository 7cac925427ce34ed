"""Results as pictures."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.quality import Quality


def plot_quality(results: Sequence[Quality], path: Path) -> None:
    """When words came: of the first result's longest recording along the audio, and their delays by file set."""
    figure, (along, spread) = pyplot.subplots(1, 2, figsize=(13, 5.5))
    first = results[0]
    ends = [word.end_ms / 1000 for word in first.timeline]
    along.plot(ends, ends, color="lightgrey", label="spoken")
    along.step(ends, [word.appeared_ms / 1000 for word in first.timeline], where="post", label="first in the text")
    along.step(ends, [word.stable_ms / 1000 for word in first.timeline], where="post", label="stable")
    along.set(xlabel="end of the word in the audio, s", ylabel="time, s", title=f"{first.file_set}: {first.way}")
    along.legend()
    for number, result in enumerate(results):
        colour = f"C{number}"
        for delay, marker, fill, lower in ((result.appeared_ms, "o", "full", 0.0), (result.stable_ms, "s", "none", 0.12)):
            if delay:
                ends = [delay.p50 / 1000, delay.p95 / 1000]
                spread.plot(ends, [number + lower] * 2, f"{marker}-", color=colour, fillstyle=fill)
    spread.set_yticks(np.arange(len(results)), [f"{each.file_set}\n{each.way}" for each in results], fontsize=8)
    spread.set(
        xlabel="s after the word's end: p50 to p95; filled: first seen, hollow: stable", xlim=(0, None), title="delay of words"
    )
    spread.invert_yaxis()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
