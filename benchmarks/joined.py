"""Joins real clips into one long recording, to see whether words are lost or doubled at the server's cuts."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from benchmarks.harness.accuracy import normalise
from benchmarks.speech_sets import Clip
from runtime.audio import SAMPLE_RATE

PAUSE_SECONDS = (0.3, 1.5)
NEAR_MS = 1000  # of a cut


@dataclass(frozen=True)
class Cuts:
    """Counts of words near the server's cuts and elsewhere in one recording, and of the wrong ones among them."""

    seconds: float
    cuts: int
    words_near: int
    errors_near: int
    words_elsewhere: int
    errors_elsewhere: int

    @property
    def rate_near(self) -> float:
        return 100 * self.errors_near / max(1, self.words_near)

    @property
    def rate_elsewhere(self) -> float:
        return 100 * self.errors_elsewhere / max(1, self.words_elsewhere)


def join(clips: Sequence[Clip], seconds: float, seed: int = 0) -> Clip:
    """Join clips in a random order, repeatedly, with pauses between them, to about this many seconds."""
    chance, parts, texts, length = np.random.default_rng(seed), [], [], 0
    while length < seconds * SAMPLE_RATE:
        for index in chance.permutation(len(clips)):
            pause = np.zeros(int(chance.uniform(*PAUSE_SECONDS) * SAMPLE_RATE), np.int16)
            parts += [clips[index].samples, pause]
            texts.append(clips[index].text)
            length += len(parts[-2]) + len(pause)
            if length >= seconds * SAMPLE_RATE:
                break
    return Clip("joined", "joined", np.concatenate(parts), " ".join(filter(None, texts)))


def count(clip: Clip, final: dict) -> Cuts:
    """Count words and errors. final: the message, with the times of words. A missing word counts at the word before it."""
    cuts = [segment["end_ms"] for segment in final["segments"][:-1]]
    spoken = [(word, each["end_ms"]) for each in final["words"] for word in normalise(each["w"]).split()]
    is_near = [any(abs(at - cut) <= NEAR_MS for cut in cuts) for _, at in spoken]
    if not spoken or not clip.text:
        return Cuts(len(clip.samples) / SAMPLE_RATE, len(cuts), 0, 0, 0, len(spoken))
    found = jiwer.process_words(normalise(clip.text), " ".join(word for word, _ in spoken))
    errors = [0, 0]  # elsewhere, near
    for chunk in found.alignments[0]:
        if chunk.type != "equal":
            at = min(len(spoken) - 1, max(0, chunk.hyp_start_idx - (chunk.type == "delete")))
            size = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            errors[is_near[at]] += size
    near = sum(is_near)
    return Cuts(len(clip.samples) / SAMPLE_RATE, len(cuts), near, errors[1], len(spoken) - near, errors[0])
