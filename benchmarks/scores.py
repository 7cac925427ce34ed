"""Scores of many clips: error rates with their intervals, delays of words, and differences between two runs, clip by clip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.accuracy import count_errors, normalise, normalise_as_spoken, spelled
from benchmarks.quality import Spread
from benchmarks.speech import Heard
from benchmarks.speech_sets import TUNED_ON

DRAWS = 2000  # draws of the bootstrap
TOGETHER = "together"

Form = Callable[[str], str]


@dataclass(frozen=True)
class Rate:
    """Errors per 100 words, or characters."""

    value: float
    low: float
    """Lower end of the middle 95% of the rates of other draws of as many clips; high: upper end."""
    high: float


@dataclass(frozen=True)
class Score:
    """Scores of one set, or several together."""

    name: str
    clips: int
    words: int
    offline: Rate
    streamed: Rate
    """WER of the text as spoken: normalised by Whisper's English rules, digits one by one."""
    difference: Rate
    """Streamed minus offline, for the same clips."""
    raw: float
    """Streamed WER with only lower case and without punctuation."""
    characters: float
    """Streamed CER of the text as spoken, without its spaces."""
    right: int
    """Streamed clips without an error."""
    empty: int
    """Clips with speech but without a transcript."""
    appeared_ms: Spread | None
    stable_ms: Spread | None
    unstable_ratio: float
    violations: int
    final_ms: Spread | None
    retries: float
    """Repeated requests for finals, per clip."""
    compute_share: float


def score(name: str, heard: Sequence[Heard]) -> Score:
    """Score clips with speech."""
    offline, streamed = errors_of(heard, "offline"), errors_of(heard, "streamed")
    words = streamed[:, 1]
    raw, characters = errors_of(heard, "streamed", normalise), errors_of(heard, "streamed", spelled)
    seen = sum(len(each.appeared_ms) for each in heard)
    return Score(
        name,
        len(heard),
        int(words.sum()),
        rate(offline[:, 0], words),
        rate(streamed[:, 0], words),
        rate(streamed[:, 0] - offline[:, 0], words),
        percent(raw),
        percent(characters),
        right=int((streamed[:, 0] == 0).sum()),
        empty=sum(not each.streamed for each in heard),
        appeared_ms=Spread.of([delay for each in heard for delay in each.appeared_ms]),
        stable_ms=Spread.of([delay for each in heard for delay in each.stable_ms]),
        unstable_ratio=round(sum(each.unstable_words for each in heard) / max(1, seen), 3),
        violations=sum(each.violations for each in heard),
        final_ms=Spread.of([each.final_ms for each in heard]),
        retries=round(sum(each.retries for each in heard) / len(heard), 2),
        compute_share=round(sum(each.compute_seconds for each in heard) / sum(each.seconds for each in heard), 3),
    )


def scores(heard: Sequence[Heard]) -> list[Score]:
    """Return the score of each set with speech, and of all sets together on which nothing was tuned."""
    spoken = [each for each in heard if each.reference]
    names = list(dict.fromkeys(each.set_name for each in spoken))
    found = [score(name, [each for each in spoken if each.set_name == name]) for name in names]
    untouched = [each for each in spoken if each.set_name not in TUNED_ON]
    return [*found, score(TOGETHER, untouched)] if len(names) > 1 and untouched else found


def errors_of(heard: Sequence[Heard], way: str, form: Form = normalise_as_spoken) -> np.ndarray:
    """Return int (clips, 2): errors, and words of the reference."""
    return np.array([count_errors(form(each.reference), form(getattr(each, way))) for each in heard])


def percent(errors: np.ndarray) -> float:
    return round(100 * float(errors[:, 0].sum() / max(1, errors[:, 1].sum())), 2)


def rate(errors: np.ndarray, words: np.ndarray) -> Rate:
    """Return the error rate. errors, words: int (clips,). The interval is a bootstrap over clips (Bisani and Ney 2004)."""
    drawn = np.random.default_rng(0).integers(len(words), size=(DRAWS, len(words)))
    rates = 100 * errors[drawn].sum(axis=1) / np.maximum(1, words[drawn].sum(axis=1))
    low, high = np.percentile(rates, (2.5, 97.5))
    return Rate(*(round(float(value), 2) for value in (100 * errors.sum() / max(1, words.sum()), low, high)))


def false_words(heard: Sequence[Heard]) -> list[Heard]:
    """Return the clips without speech that have a transcript."""
    return [each for each in heard if not each.reference and each.streamed]


@dataclass(frozen=True)
class Paired:
    """Comparison of one set in two runs, for the clips that both have."""

    name: str
    clips: int
    words: int
    before: float
    now: float
    difference: Rate
    """Difference of the streamed WER. If its interval is all on one side of 0, the runs differ."""
    better: int
    """Clips with fewer errors than before."""
    worse: int
    """Clips with more errors than before."""


def pair(before: Sequence[Heard], now: Sequence[Heard]) -> list[Paired]:
    """Compare two runs by set, and for all sets together on which nothing was tuned."""
    earlier = {each.name: each for each in before if each.reference}
    both = [(earlier[each.name], each) for each in now if each.name in earlier]
    names = list(dict.fromkeys(each.set_name for _, each in both))
    pairs = [paired(name, [two for two in both if two[1].set_name == name]) for name in names]
    untouched = [two for two in both if two[1].set_name not in TUNED_ON]
    return [*pairs, paired(TOGETHER, untouched)] if len(names) > 1 and untouched else pairs


def paired(name: str, both: Sequence[tuple[Heard, Heard]]) -> Paired:
    before, now = (errors_of([two[side] for two in both], "streamed") for side in (0, 1))
    change = now[:, 0] - before[:, 0]
    return Paired(
        name,
        len(both),
        int(now[:, 1].sum()),
        percent(before),
        percent(now),
        rate(change, now[:, 1]),
        better=int((change < 0).sum()),
        worse=int((change > 0).sum()),
    )
