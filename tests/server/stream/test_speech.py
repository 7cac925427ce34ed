"""Properties on real recordings, where they lie beside the project: ../shared/speech, or $SPEECH_DIR."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import speech_sets
from benchmarks.harness.accuracy import count_errors, normalise_as_spoken
from benchmarks.harness.simulation import Simulation
from benchmarks.listening import listen
from benchmarks.speech_sets import Clip
from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import Priority, Request
from server.settings import SessionLimits
from tests import greedy
from tests.conftest import PROJECT

SPEECH = Path(os.environ.get("SPEECH_DIR") or PROJECT.parent / "shared" / "speech")
LIMITS = SessionLimits(interim_interval_ms=1000)
pytestmark = [
    pytest.mark.speech,
    pytest.mark.skipif(not (SPEECH / "vctk" / "manifest.json").exists(), reason=f"no real recordings in {SPEECH.name}/"),
]


@pytest.fixture(scope="module")
def stream(fp32) -> Callable[[Clip], Simulation]:
    def run(clip: Clip) -> Simulation:
        simulation = Simulation(fp32.engine, fp32.tokenizer, LIMITS, words=True)
        simulation.run(clip.samples)
        return simulation

    return run


def text_of(simulation: Simulation) -> str:
    return normalise_as_spoken(simulation.messages[-1][1]["text"])


def shortest(name: str, count: int) -> list[Clip]:
    clips = speech_sets.load(SPEECH, name, "odd")
    return sorted(clips, key=lambda clip: len(clip.samples))[:count]


def test_stable_text_is_never_changed(stream):
    for name in ("vctk", "an4", "speechocean_l2", "alphanum_accents"):
        for clip in shortest(name, 4):
            simulation = stream(clip)
            assert listen(simulation.messages, len(clip.samples) / SAMPLE_RATE).violations == 0, clip.name


def test_every_result_is_that_of_decoding_alone_without_a_draft(stream, fp32):
    """With its gain and edges, beside whatever else was in the batch."""
    for name in ("an4", "speechocean_l2"):
        for clip in shortest(name, 3):
            free = [result for result in stream(clip).results if not result.request.forced and not result.cut_short]
            assert free
            for result in free[-2:]:
                plain = greedy.decode(fp32.engine, result.request.clip)
                if result.request.end_bias == greedy.END_BIAS:
                    assert result.tokens == tuple(plain.tokens), clip.name


def test_a_batch_of_real_clips_with_edges_equals_its_rows(stream, fp32):
    finals = [
        [each.request.clip for each in stream(clip).results if each.request.priority is Priority.FINAL][-1]
        for clip in (*shortest("an4", 2), *shortest("fsdd_digits", 2))
    ]
    assert any(clip.quiet_behind for clip in finals)
    alone = [tuple(greedy.decode(fp32.engine, clip).tokens) for clip in finals]
    assert together(fp32.engine, finals) == alone


def together(engine, clips: list) -> list[tuple[int, ...]]:
    from benchmarks.harness.simulation import run_step
    from runtime.scheduler.batcher import Batcher

    batcher, results = Batcher(engine.limits, max_wait_seconds=0.0), {}
    for number, clip in enumerate(clips):
        batcher.submit(Request(number, str(number), clip, end_bias=greedy.END_BIAS), now=0.0)
    while (step := batcher.plan(now=0.0)) is not None:
        for result in run_step(engine, batcher, step, now=0.0):
            results[result.request.request_id] = result.tokens
    return [results[number] for number in range(len(clips))]


def test_a_single_word_is_said_once(stream):
    """Digits that are cut flush came back twice and seven times."""
    texts = {clip.name: text_of(stream(clip)) for clip in speech_sets.load(SPEECH, "fsdd_digits", "odd")}
    repeated = [text for text in texts.values() if len(words := text.split()) > 1 and len(set(words)) == 1]
    assert not repeated


def test_no_learner_comes_back_empty(stream):
    texts = {clip.name: text_of(stream(clip)) for clip in shortest("speechocean_l2", 12)}
    assert [name for name, text in texts.items() if not text] == []


def test_no_words_where_nobody_speaks(stream):
    quiet = [clip for clip in speech_sets.load(SPEECH, "nonspeech") if not clip.kind.endswith("*")]
    assert len(quiet) > 20
    for clip in quiet[::3]:
        assert text_of(stream(clip)) == "", clip.kind


def test_native_speech_is_understood_as_a_stream(stream):
    """One word in ten may be wrong, in clips of which offline one in fifty is."""
    errors = [count_errors(normalise_as_spoken(clip.text), text_of(stream(clip))) for clip in shortest("vctk", 5)]
    assert sum(wrong for wrong, _ in errors) <= 0.1 * sum(words for _, words in errors)


def test_a_recording_joined_from_clips_loses_no_clip(stream):
    """Behind cuts and pauses every clip has most of its words."""
    clips = shortest("vctk", 3)
    pause = np.zeros(SAMPLE_RATE // 2, np.int16)
    joined = np.concatenate([part for clip in clips for part in (clip.samples, pause)])
    text = text_of(stream(Clip("joined", "all", joined, "")))
    for clip in clips:
        words = normalise_as_spoken(clip.text).split()
        assert sum(word in text.split() for word in words) >= 0.8 * len(words), clip.name
