"""Streams through an engine of a streaming model that knows six recordings by heart: words, drafts, stability and finals."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.harness.simulation import Simulation
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE
from runtime.engine.manifest import NATIVE, ONNXRUNTIME
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer
from tests.conftest import PROJECT
from tests.learned import LEARNED, TEXTS

pytestmark = pytest.mark.engine

ENGINES = {"native int8": (NATIVE, "int8"), "native fp32": (NATIVE, "fp32"), "onnxruntime fp32": (ONNXRUNTIME, "fp32")}
QUIET_SECONDS = 0.5  # before and after a recording
NEW_SENTENCE_SECONDS = 3.5  # of quiet, after which another segment begins
WORD_SECONDS = 0.35  # that the time of a word may be off by


@pytest.fixture(scope="module", params=ENGINES)
def opened(request) -> Iterator[tuple[Engine, Tokenizer]]:
    from tests import streaming_models

    target, precision = ENGINES[request.param]
    engine = streaming_models.open_built(LEARNED, target, precision)
    yield engine, Tokenizer.load(streaming_models.built(LEARNED, target, precision))
    engine.close()


def quiet(seconds: float) -> np.ndarray:
    """A room."""
    return np.random.default_rng(1).normal(0, 30, int(seconds * SAMPLE_RATE)).astype(np.int16)


def recording(name: str, gain: float = 1.0) -> np.ndarray:
    samples = audio_file.load(PROJECT / "tests" / "data" / "eval" / f"{name}.flac") * gain
    return np.concatenate((quiet(QUIET_SECONDS), samples.astype(np.int16), quiet(QUIET_SECONDS)))


def check_messages(simulation: Simulation, final: str) -> None:
    """Stable text grows, never changes, and is the final's beginning."""
    stable = ""
    for _, message in simulation.messages:
        if message["op"] in ("interim", "flushed", "final"):
            found = message["text"][: message["stable"]]
            assert found.startswith(stable) and final.startswith(found)
            stable = found


@pytest.mark.parametrize("name", TEXTS)
def test_a_recording_is_transcribed_word_for_word_and_each_sample_encoded_once(opened, name, monkeypatch):
    engine, tokenizer = opened
    encoded, append = [], engine.append
    monkeypatch.setattr(engine, "append", lambda slots, samples: (encoded.extend(map(len, samples)), append(slots, samples))[1])
    audio, simulation = recording(name), Simulation(engine, tokenizer)
    assert simulation.run(audio) == TEXTS[name]
    check_messages(simulation, TEXTS[name])
    assert len(encoded) > 5 and sum(encoded) <= len(audio), "an update costs its new audio"
    texts = [message["text"] for _, message in simulation.messages if message["op"] == "interim"]
    assert len(set(texts)) > 3, "words while they are spoken"


@pytest.mark.parametrize("frame_ms", [10, 50, 330, 1000])
def test_the_words_do_not_depend_on_the_messages_that_audio_comes_in(opened, frame_ms):
    for name, text in TEXTS.items():
        assert Simulation(*opened, frame_ms=frame_ms).run(recording(name, gain=0.4)) == text


def test_one_stream_transcribes_one_sentence_after_another(opened):
    """Each is a segment of its own, that begins without the frames of the one before."""
    names = list(TEXTS)[:3]
    audio = np.concatenate([part for name in names for part in (recording(name), quiet(NEW_SENTENCE_SECONDS))])
    simulation = Simulation(*opened)
    expected = " ".join(TEXTS[name] for name in names)
    assert simulation.run(audio) == expected
    check_messages(simulation, expected)


def test_a_flush_closes_what_was_said_and_the_stream_goes_on(opened):
    first, second = list(TEXTS)[:2]
    audio = np.concatenate((recording(first), quiet(1.0), recording(second)))
    at = len(recording(first)) / SAMPLE_RATE
    simulation = Simulation(*opened, flush_at=(at,))
    assert simulation.run(audio) == f"{TEXTS[first]} {TEXTS[second]}"
    flushed = next(message for _, message in simulation.messages if message["op"] == "flushed")
    assert flushed["text"] == TEXTS[first]


def test_words_have_times_in_their_order_within_the_speech(opened):
    name = next(iter(TEXTS))
    audio, simulation = recording(name), Simulation(*opened, words=True)
    simulation.run(audio)
    (segment,) = simulation.messages[-1][1]["segments"]
    words = segment["words"]
    assert [word["w"] for word in words] == TEXTS[name].split()
    limits = [time for word in words for time in (word["start_ms"], word["end_ms"])]
    assert limits == sorted(limits) and limits[0] >= 0 and limits[-1] <= len(audio) / SAMPLE_RATE * 1000
