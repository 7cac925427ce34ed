"""Ends of turns on real speech: for each part of the evidence, the share of turns that are cut, and the time waited.

Recordings are streamed unchanged, and again with a pause of natural length between two words of a sentence. The weights of
server/stream/turn_end.py are fitted on the even clips, and reported on the odd ones.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.harness.simulation import Simulation
from benchmarks.scores import DRAWS, Rate
from benchmarks.speech_sets import Clip
from runtime.audio import SAMPLE_RATE
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer
from runtime.turns.turn_model import TurnModel
from server.stream.stream import Judge, judge_nothing
from server.stream.turn_end import LEAST_SILENCE_SECONDS, NO_EVIDENCE, PauseEvidence, features, weights_for

FRAME_MS = 100  # of a message: levels come in tenths of a second
SEEN_MS = 200  # shorter pauses are ignored
SECONDS_AFTER = 2.0  # of quiet, after each recording
EVIDENCE_SECONDS = 0.25  # of silence until there is evidence: it is requested after 0.14 to 0.22 s, and answered in 60 ms
MOST_SECONDS = 5.0  # longest wait
LEAST_SECONDS = 1.0  # a shorter recording is a single word, cut without quiet around it
LEAST_WORDS, MANY_WORDS = 3, 8  # in a recording that is cut once, or twice
NEAR_SECONDS = 0.15  # around the boundary of two words, within which the quietest place is taken
SAME_MS = 350  # largest distance between a cut and the pause that is matched to it
TURN_OPS = ("speech_started", "speech_stopped")
THRESHOLDS = np.linspace(0.02, 0.999, 400)
USUAL_THRESHOLD = 0.7  # as in Flux
TARGET_LATENCY_MS, TARGET_CUT_PERCENT = 300, 5.0
GRID = np.arange(LEAST_SILENCE_SECONDS, 2.0, 0.05)  # of silence, in the fit
RIDGE = 0.06

Mask = Callable[[PauseEvidence], PauseEvidence]
PARTS: dict[str, Mask] = {
    "silence": lambda evidence: NO_EVIDENCE,
    "silence, text": lambda evidence: replace(evidence, sound=None),
    "silence, sound": lambda evidence: replace(evidence, text=None),
    "silence, text, sound": lambda evidence: evidence,
}


@dataclass(frozen=True)
class SpokenPause:
    """A pause in a recording, with the evidence that the server had about it."""

    clip: str
    seconds: float | None
    """Length of the pause; None means the end of the turn."""
    evidence: PauseEvidence


@dataclass(frozen=True)
class PartScore:
    """Figures of a part of the evidence; intervals are the middle 95% of the bootstrap over clips."""

    name: str
    cut_at_target: Rate
    """Percent of the pauses within turns that are cut if the mean wait at ends is TARGET_LATENCY_MS."""
    latency_at_target: Rate
    """Mean wait at ends in milliseconds if TARGET_CUT_PERCENT of the pauses within turns are cut."""
    cut_usual: float
    """Percent of the pauses within turns that are cut at the usual threshold."""
    latency_usual: float
    """Mean wait at ends in milliseconds at the usual threshold."""
    curve: Sequence[tuple[float, float]]
    """Mean wait at ends in milliseconds, and percent of the pauses that are cut, by threshold."""


@dataclass
class PauseRecorder:
    """Keeps the evidence of each pause of a simulation."""

    evidence: dict[int, PauseEvidence] = field(default_factory=dict)
    """Evidence by the number of pauses that have begun."""

    def __call__(self, simulation: Simulation) -> None:
        turns = [message["op"] for _, message in simulation.messages if message["op"] in TURN_OPS]
        if turns[-1:] == ["speech_stopped"] and (found := simulation.seat.streams[0].turns.evidence) != NO_EVIDENCE:
            self.evidence[turns.count("speech_stopped")] = found


def measure(engine: Engine, words: Tokenizer, model: TurnModel | None, clips: Sequence[Clip]) -> Iterator[SpokenPause]:
    """Yield the pauses of unchanged recordings, and then of those that are cut."""
    spoken = [clip for clip in clips if clip.text and len(clip.samples) >= LEAST_SECONDS * SAMPLE_RATE]
    natural: list[SpokenPause] = []
    for clip in spoken:
        for _, each in timed_pauses(engine, words, model, clip.name, clip.samples):
            natural.append(each)
            yield each
    lengths = sorted(each.seconds for each in natural if each.seconds is not None)
    random = np.random.default_rng(0)
    for clip in spoken:
        places = boundaries(engine, words, clip.samples)
        for _ in range(0 if len(places) < LEAST_WORDS else 1 if len(places) < MANY_WORDS else 2):
            cut, seconds = int(random.choice(places)), float(random.choice(lengths))
            quiet = quiet_like(clip.samples, round(seconds * SAMPLE_RATE))
            audio = np.concatenate([clip.samples[:cut], quiet, clip.samples[cut:]])
            for at_ms, each in timed_pauses(engine, words, model, clip.name, audio):
                if each.seconds is not None and abs(at_ms - cut * 1000 // SAMPLE_RATE) < SAME_MS:
                    yield each


def timed_pauses(
    engine: Engine, words: Tokenizer, model: TurnModel | None, name: str, samples: np.ndarray
) -> Iterator[tuple[int, SpokenPause]]:
    """Yield the pauses of one recording with the milliseconds at which they begin. The last one is its end."""
    recorder = PauseRecorder()
    init = {"silence_ms": SEEN_MS, "turns": True}
    simulation = Simulation(engine, words, init=init, judge=judge_of(model), watch=recorder, frame_ms=FRAME_MS)
    simulation.run(np.concatenate([samples, quiet_like(samples, int(SECONDS_AFTER * SAMPLE_RATE))]))
    turns = [message for _, message in simulation.messages if message["op"] in TURN_OPS]
    stops = [index for index, message in enumerate(turns) if message["op"] == "speech_stopped"]
    for number, index in enumerate(stops, 1):
        at_ms = turns[index]["at_ms"]
        is_end = index + 1 == len(turns)
        seconds = None if is_end else (turns[index + 1]["at_ms"] - at_ms) / 1000
        yield at_ms, SpokenPause(name, seconds, recorder.evidence.get(number, NO_EVIDENCE))


def judge_of(model: TurnModel | None) -> Judge:
    if model is None:
        return judge_nothing
    return lambda samples, answer: answer(model.probabilities([samples])[0])


def quiet_like(samples: np.ndarray, count: int) -> np.ndarray:
    """Return quiet from the recording itself: its quietest tenth of a second, forwards and backwards."""
    length = min(len(samples), SAMPLE_RATE // 10)
    power = np.convolve(samples.astype(np.float64) ** 2, np.ones(length), mode="valid")
    first = int(np.argmin(power))
    piece = samples[first : first + length]
    return np.resize(np.concatenate([piece, piece[::-1]]), count)


def boundaries(engine: Engine, words: Tokenizer, samples: np.ndarray) -> list[int]:
    """Return the quietest places near the boundaries of two words, except near the recording's edges."""
    simulation = Simulation(engine, words, words=True, frame_ms=1000)
    simulation.run(samples)
    power = np.convolve(samples.astype(np.float64) ** 2, np.ones(SAMPLE_RATE // 50), mode="same")
    found = []
    for word in simulation.messages[-1][1]["words"][1:]:
        first = max(0, round((word["start_ms"] / 1000 - NEAR_SECONDS) * SAMPLE_RATE))
        last = min(len(samples), first + round(2 * NEAR_SECONDS * SAMPLE_RATE))
        if first < last:
            found.append(first + int(np.argmin(power[first:last])))
    return sorted({place for place in found if SAMPLE_RATE // 2 < place < len(samples) - SAMPLE_RATE * 2 // 5})


# Effect of a threshold


def waits(thresholds: np.ndarray, evidence: PauseEvidence) -> np.ndarray:
    """Return the silence, in seconds, after which a turn ends at each threshold: float (thresholds,)."""
    odds = np.log(thresholds / (1 - thresholds))
    before = np.maximum(LEAST_SILENCE_SECONDS, (odds - weights_for(NO_EVIDENCE).constant) / weights_for(NO_EVIDENCE).per_second)
    weights = weights_for(evidence)
    without_silence = weights.constant + float(np.dot(weights.evidence, features(evidence)))
    after = np.maximum(EVIDENCE_SECONDS, (odds - without_silence) / weights.per_second)
    return np.minimum(MOST_SECONDS, np.where(before < EVIDENCE_SECONDS, before, after))


def scores(found: Sequence[SpokenPause]) -> list[PartScore]:
    return [score(name, found, mask) for name, mask in PARTS.items()]


def score(name: str, found: Sequence[SpokenPause], mask: Mask) -> PartScore:
    """Score one part of the evidence."""
    clips = list(dict.fromkeys(each.clip for each in found))
    number = {clip: index for index, clip in enumerate(clips)}
    cuts, counts = np.zeros((len(clips), len(THRESHOLDS))), np.zeros(len(clips))
    delays, ends = np.zeros((len(clips), len(THRESHOLDS))), np.zeros(len(clips))
    for each in found:
        wait = waits(THRESHOLDS, mask(each.evidence))
        if each.seconds is None:
            delays[number[each.clip]] += 1000 * wait
            ends[number[each.clip]] += 1
        else:
            cuts[number[each.clip]] += each.seconds >= wait
            counts[number[each.clip]] += 1
    drawn = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
    draws = [curve(cuts[each], counts[each], delays[each], ends[each]) for each in drawn]
    whole = curve(cuts, counts, delays, ends)
    usual = int(np.argmin(np.abs(THRESHOLDS - USUAL_THRESHOLD)))
    return PartScore(
        name,
        interval(cut_at_latency(*whole), [cut_at_latency(*each) for each in draws]),
        interval(latency_at_cut(*whole), [latency_at_cut(*each) for each in draws]),
        round(float(whole[1][usual]), 1),
        round(float(whole[0][usual])),
        [(round(float(latency)), round(float(cut), 1)) for latency, cut in zip(*whole, strict=True)],
    )


def curve(cuts: np.ndarray, counts: np.ndarray, delays: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean wait of the ends in milliseconds, and the percent of the pauses that are cut, by threshold."""
    return delays.sum(axis=0) / max(1, ends.sum()), 100 * cuts.sum(axis=0) / max(1, counts.sum())


def cut_at_latency(latencies: np.ndarray, cuts: np.ndarray) -> float:
    return float(np.interp(TARGET_LATENCY_MS, latencies, cuts))


def latency_at_cut(latencies: np.ndarray, cuts: np.ndarray) -> float:
    within = latencies[cuts <= TARGET_CUT_PERCENT]
    return float(within.min()) if len(within) else math.nan


def interval(value: float, drawn: Sequence[float]) -> Rate:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Rate(*(round(float(each), 1) for each in (value, low, high)))


# The fit


def fitted(found: Sequence[SpokenPause]) -> dict[str, list[float]]:
    """Return the weights of each part: the constant, the weight of a second of silence, and those of the evidence."""
    return {name: [round(float(weight), 3) for weight in fit(found, mask)] for name, mask in PARTS.items()}


def fit(found: Sequence[SpokenPause], mask: Mask) -> np.ndarray:
    """Fit a logistic regression of whether the turn is over, at each moment of silence, by Newton's method with a small ridge."""
    rows, is_end = [], []
    for each, seconds in itertools.product(found, GRID):
        if each.seconds is None or seconds < each.seconds:
            rows.append([1.0, seconds, *features(mask(each.evidence))])
            is_end.append(each.seconds is None)
    inputs, labels = np.array(rows), np.array(is_end, float)
    used = np.flatnonzero(inputs.any(axis=0))
    matrix, weights = inputs[:, used], np.zeros(len(used))
    ridge = np.diag([1e-6, 1e-6, *[RIDGE] * (len(used) - 2)])
    for _ in range(50):
        guess = 1 / (1 + np.exp(-matrix @ weights))
        slope = matrix.T @ (guess - labels) / len(GRID) + ridge @ weights
        weights -= np.linalg.solve((matrix * (guess * (1 - guess))[:, None]).T @ matrix / len(GRID) + ridge, slope)
    found_weights = np.zeros(inputs.shape[1])
    found_weights[used] = weights
    return found_weights
