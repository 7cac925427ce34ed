"""Keyterms on real speech: wrong words are given as terms, and then a hundred words that nobody says."""

import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np

from benchmarks.harness.accuracy import normalise_as_spoken
from benchmarks.harness.simulation import SimulatedSeat, run_step
from benchmarks.scores import Rate, rate
from benchmarks.speech_sets import Clip as Recording
from runtime import tokenizer
from runtime.engine.protocol import Engine
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.requests import Request
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits
from server.stream.stream import Options
from server.stream.terms import Term

BOOSTS = (1.0, 2.0, 3.0, 4.0)
UNSAID_TERMS = 100
UNSAID_BOOST = 2.0
LEAST_LETTERS = 4  # of a term


@dataclass(frozen=True)
class Row:
    """All recordings, transcribed with some terms."""

    terms: str
    said: int
    """Occurrences of the terms in the references."""
    wrong: Rate
    """Percent of these that are wrong, and the middle 95% of the bootstrap over clips."""
    errors: Rate
    """Word error rate of the same recordings."""
    other_errors: Rate
    """Errors that are not occurrences of the terms, in percent of the other words."""
    false_words: int
    """Words in recordings without speech."""


@dataclass(frozen=True)
class Judged:
    """One recording's words."""

    reference: list[str]
    is_right: np.ndarray
    errors: int


def judge(recording: Recording, text: str) -> Judged:
    reference, hypothesis = (normalise_as_spoken(each).split() for each in (recording.text, text))
    is_right = np.zeros(len(reference), bool)
    if not reference or not hypothesis:
        return Judged(reference, is_right, len(reference) + len(hypothesis))
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    for chunk in found.alignments[0]:
        if chunk.type == "equal":
            is_right[chunk.ref_start_idx : chunk.ref_end_idx] = True
    return Judged(reference, is_right, found.substitutions + found.deletions + found.insertions)


def measure(
    engine: Engine, words: Tokenizer, recordings: Sequence[Recording], vocabulary: Sequence[str], progress: Callable[[str], None]
) -> Iterator[Row]:
    """Transcribe all recordings with each boost. vocabulary: the model's words, as a source of words that nobody says."""

    def judged(terms: Sequence[Term]) -> list[Judged]:
        return list(map(judge, recordings, transcribe(engine, words, recordings, terms)))

    progress("no terms")
    plain = judged(())
    missed = {word for each in plain for word, right in zip(each.reference, each.is_right, strict=True) if not right}
    terms = sorted(word for word in missed if len(word) >= LEAST_LETTERS)
    yield row("none", plain, terms)
    for boost in BOOSTS:
        progress(f"boost {boost:g}")
        yield row(f"{len(terms)} terms, boost {boost:g}", judged([Term(term, boost) for term in terms]), terms)
    progress("words that nobody says")
    unsaid = [Term(word, UNSAID_BOOST) for word in words_not_in(plain, vocabulary)]
    yield row(f"{len(unsaid)} unsaid words, boost {UNSAID_BOOST:g}", judged(unsaid), terms)


def words_not_in(judged: Sequence[Judged], vocabulary: Sequence[str]) -> list[str]:
    said = {word for each in judged for word in each.reference}
    words = (piece.removeprefix(tokenizer.SPACE) for piece in vocabulary if piece.startswith(tokenizer.SPACE))
    possible = [word for word in words if word.isascii() and word.isalpha() and len(word) > 5 and word not in said]
    return random.Random(1).sample(possible, UNSAID_TERMS)


def row(name: str, judged: Sequence[Judged], terms: Sequence[str]) -> Row:
    wanted = set(terms)
    spoken = [each for each in judged if each.reference]
    of_terms = [np.array([word in wanted for word in each.reference]) for each in spoken]
    said = np.array([mask.sum() for mask in of_terms])
    wrong = np.array([(mask & ~each.is_right).sum() for mask, each in zip(of_terms, spoken, strict=True)])
    errors, count = np.array([each.errors for each in spoken]), np.array([len(each.reference) for each in spoken])
    false_words = sum(each.errors for each in judged if not each.reference)
    others = rate(errors - wrong, count - said)
    return Row(name, int(said.sum()), rate(wrong, said), rate(errors, count), others, false_words)


def transcribe(engine: Engine, words: Tokenizer, recordings: Sequence[Recording], terms: Sequence[Term]) -> list[str]:
    """Transcribe recordings like a server transcribes files, with its second attempts, all with the same terms."""
    options = Options(is_file=True, terms=tuple(terms))
    return [transcribe_file(engine, words, recording.samples, options) for recording in recordings]


def transcribe_file(engine: Engine, words: Tokenizer, samples: np.ndarray, options: Options) -> str:
    batcher, requests = Batcher(engine.limits, max_wait_seconds=0.0), deque[Request]()
    seat = SimulatedSeat(SessionLimits(), words, requests.append, encodes_streams=engine.limits.continues_clips)
    seat.transcribe_all(samples.tobytes(), lambda event: True, options)
    while requests:
        batcher.submit(requests.popleft(), now=0.0)
        while (step := batcher.plan(now=0.0)) is not None:
            for result in run_step(engine, batcher, step, now=0.0):
                seat.deliver(result, now=0.0)
    return seat.text


def vocabulary_of(directory: Path) -> list[str]:
    return list(json.loads((directory / tokenizer.FILE_NAME).read_text(encoding="utf-8")))
