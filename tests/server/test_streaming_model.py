"""The whole server with a streaming model that knows six recordings by heart: over WebRTC, and as files."""

import asyncio

import httpx
import numpy as np
import pytest

from moonshine_client import audio_file
from moonshine_client.client import Transcription, transcribe
from runtime.audio import SAMPLE_RATE
from tests.conftest import PROJECT, RunningServer
from tests.learned import LEARNED, TEXTS

SPEECH = 0.05  # of the loudest sample
FIRST_WORDS_SECONDS = 1.0  # of speech, after which half of all speakers see words
UDP_PORTS = "20500-20515"


@pytest.fixture(scope="module", params=["alone", "with gateways"])
def server(request, start_server) -> RunningServer:
    from tests import streaming_models

    target, precision = streaming_models.best_target()
    streaming_models.built(LEARNED, target, precision)
    more = {"ASR_WORKERS": "2", "ASR_UDP_PORTS": UDP_PORTS} if request.param == "with gateways" else {}
    return start_server(MOONSHINE_MODEL_ID=str(LEARNED), ASR_TARGET=target, MOONSHINE_PRECISION=precision, **more)


def path_of(name: str):
    return PROJECT / "tests" / "data" / "eval" / f"{name}.flac"


def spoken(name: str) -> np.ndarray:
    """A recording between half a second of a quiet room."""
    room = np.random.default_rng(2).normal(0, 30, SAMPLE_RATE // 2).astype(np.int16)
    return np.concatenate((room, audio_file.load(path_of(name)), room))


def check(text: str, done: Transcription) -> None:
    assert done.final["text"] == text
    stable = ""
    for interim in done.interims:
        found = interim["text"][: interim["stable"]]
        assert found.startswith(stable) and text.startswith(found), "stable text never changes"
        stable = found


def seconds_to_words(audio: np.ndarray, done: Transcription) -> float:
    """Seconds of speech that the first update with words covers."""
    began = int(np.argmax(np.abs(audio) > SPEECH * np.abs(audio).max())) / SAMPLE_RATE
    return next(interim for interim in done.interims if interim["text"])["audio_ms"] / 1000 - began


def test_all_speak_at_once_and_each_is_transcribed_word_for_word(server):
    audios = {name: spoken(name) for name in TEXTS}

    async def speak() -> list[Transcription]:
        return await asyncio.gather(*(transcribe(server.address, audio) for audio in audios.values()))

    spoken_texts = asyncio.run(speak())
    for text, done in zip(TEXTS.values(), spoken_texts, strict=True):
        check(text, done)
    assert np.median(list(map(seconds_to_words, audios.values(), spoken_texts))) <= FIRST_WORDS_SECONDS


def test_a_recording_is_transcribed_with_the_times_of_its_words(server):
    name = next(iter(TEXTS))
    answer = httpx.post(
        f"http://{server.address}/v1/audio/transcriptions",
        files={"file": path_of(name).read_bytes()},
        data={"model": "default", "response_format": "verbose_json", "timestamp_granularities[]": "word"},
        trust_env=False,
        timeout=60,
    ).json()
    assert answer["text"] == TEXTS[name]
    times = [time for word in answer["words"] for time in (word["start"], word["end"])]
    assert len(answer["words"]) == len(TEXTS[name].split()) and times == sorted(times)
