"""Compares the confidence of words in finals with the share of right words: reliability, and points for calibration."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from benchmarks.harness.accuracy import normalise_as_spoken
from benchmarks.speech import Heard

BINS = 10
KNOTS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1.0)
"""Limits of the ranges for which WORDS_RIGHT of server/stream/confidence.py is fitted, denser where most words are."""


@dataclass(frozen=True)
class Bin:
    """Words of similar confidence."""

    words: int
    confidence: float
    """Mean confidence of the words."""
    right: float
    """Share of them that are right."""


def judged(heard: Iterable[Heard]) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of every word, and whether it is right: aligned with the reference, numbers written as spoken."""
    confidences: list[float] = []
    right: list[bool] = []
    for each in heard:
        for confidence, is_right in zip(each.confidences, judged_words(each), strict=True):
            if is_right is not None:
                confidences.append(confidence)
                right.append(is_right)
    return np.array(confidences), np.array(right, bool)


def judged_words(heard: Heard) -> list[bool | None]:
    """Return for each word whether it is right; None for punctuation alone."""
    spoken = [normalise_as_spoken(word).split() for word in heard.words]
    reference = [part for word in heard.reference.split() for part in normalise_as_spoken(word).split()]
    hypothesis = [part for parts in spoken for part in parts]
    is_right = np.zeros(len(hypothesis), bool)
    if reference and hypothesis:
        for chunk in jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]:
            if chunk.type == "equal":
                is_right[chunk.hyp_start_idx : chunk.hyp_end_idx] = True
    ends = np.cumsum([len(parts) for parts in spoken])
    return [bool(is_right[end - len(parts) : end].all()) if parts else None for parts, end in zip(spoken, ends, strict=True)]


def reliability(confidences: np.ndarray, right: np.ndarray) -> list[Bin]:
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    return [
        Bin(int(chosen.sum()), float(confidences[chosen].mean()), float(right[chosen].mean()))
        for chosen in (bins == number for number in range(BINS))
        if chosen.any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance between confidence and share of right words, weighted by words (Naeini et al. 2015)."""
    total = sum(each.words for each in bins)
    return sum(each.words * abs(each.confidence - each.right) for each in bins) / total


def fitted(confidences: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """Return points (uncalibrated confidence, share of right words) that never decrease, from uncalibrated words."""
    points: list[tuple[float, float, int]] = []
    for low, high in zip(KNOTS, KNOTS[1:], strict=False):
        chosen = (confidences >= low) & ((confidences < high) | (high == 1.0))
        if chosen.any():
            points.append((float(confidences[chosen].mean()), float(right[chosen].mean()), int(chosen.sum())))
        while len(points) > 1 and points[-1][1] < points[-2][1]:  # pool adjacent violators
            (a, b, m), (c, d, n) = points[-2:]
            points[-2:] = [((a * m + c * n) / (m + n), (b * m + d * n) / (m + n), m + n)]
    return [(0.0, points[0][1]), *((at, share) for at, share, _ in points), (1.0, points[-1][1])]
