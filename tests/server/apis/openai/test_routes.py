"""OpenAI's REST API, asked by OpenAI's own client."""

import io
import socket
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest
import srt
import webvtt
from openai.types.audio import Transcription, TranscriptionVerbose

from benchmarks.harness.accuracy import word_error_rate
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE
from tests.conftest import PROJECT, RunningServer

SHORT = PROJECT / "samples" / "short.wav"
MID = PROJECT / "samples" / "mid.wav"


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="4", ASR_MAX_UPLOAD_MB="8", ASR_MAX_FILE_SECONDS="120", ASR_TARGET="onnxruntime")


@pytest.fixture(scope="module")
def client(served) -> openai.OpenAI:
    return client_of(served)


def client_of(server: RunningServer, retries: int = 0) -> openai.OpenAI:
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="any", max_retries=retries, http_client=http)


def text_of(path: Path) -> str:
    return path.with_suffix(".txt").read_text().strip()


def test_json_is_the_default(client):
    heard = client.audio.transcriptions.create(file=SHORT, model="whisper-1")
    assert isinstance(heard, Transcription) and word_error_rate([text_of(SHORT)], [heard.text]) <= 10
    assert heard.usage.seconds == pytest.approx(9.96, abs=0.05)


def test_log_probabilities_are_of_the_tokens_of_the_text(client):
    heard = client.audio.transcriptions.create(file=MID, model="whisper-1", include=["logprobs"])
    check_log_probs(heard.text, heard.logprobs)
    without = client.audio.transcriptions.create(file=SHORT, model="whisper-1")
    assert without.logprobs is None


def test_log_probabilities_of_the_deltas_are_those_of_the_whole(client):
    events = list(client.audio.transcriptions.create(file=MID, model="whisper-1", include=["logprobs"], stream=True))
    check_log_probs(events[-1].text, events[-1].logprobs)
    deltas = [each for each in events if each.type == "transcript.text.delta"]
    assert all("".join(each.token for each in delta.logprobs) == delta.delta for delta in deltas)
    together = [each for delta in deltas for each in delta.logprobs]
    assert [each.logprob for each in together] == [each.logprob for each in events[-1].logprobs]


def check_log_probs(text: str, found: list) -> None:
    assert "".join(each.token for each in found) == text
    assert all(each.logprob <= 0 for each in found) and bytes(map(int, found[0].bytes)).decode() == found[0].token
    assert len({each.logprob for each in found}) > len(found) / 4, "each token has its own"


def test_text_is_the_text_alone(client):
    heard = client.audio.transcriptions.create(file=SHORT, model="moonshine-base", response_format="text")
    assert word_error_rate([text_of(SHORT)], [heard]) <= 10


def test_verbose_json_has_segments_and_words_in_order_and_inside_the_audio(client):
    heard = client.audio.transcriptions.create(
        file=MID, model="gpt-4o-transcribe", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert isinstance(heard, TranscriptionVerbose) and word_error_rate([text_of(MID)], [heard.text]) <= 10
    assert " ".join(word.word for word in heard.words) == heard.text == " ".join(segment.text for segment in heard.segments)
    for stretches in (heard.words, heard.segments):
        times = [time for each in stretches for time in (each.start, each.end)]
        assert times == sorted(times) and times[-1] <= heard.duration
    assert all(-1 < segment.avg_logprob < 0 for segment in heard.segments)


def test_verbose_json_has_no_words_where_they_are_not_asked_for(client):
    heard = client.audio.transcriptions.create(file=SHORT, model="whisper-1", response_format="verbose_json")
    assert heard.words is None and heard.segments


def test_200_keyterms_are_taken_and_more_are_refused_by_name(client):
    terms = [f"term number {number}" for number in range(200)]
    client.audio.transcriptions.create(file=SHORT, model="whisper-1", extra_body={"keywords": terms})
    with pytest.raises(openai.BadRequestError, match="200 terms at most") as refused:
        client.audio.transcriptions.create(file=SHORT, model="whisper-1", extra_body={"keywords": [*terms, "one more"]})
    assert refused.value.param == "keywords"


def stereo() -> bytes:
    """A WAV file with one recording in each channel, the second half a second later."""
    first, second = audio_file.load(SHORT), np.pad(audio_file.load(MID), (8000, 0))
    length = min(len(first), len(second))
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((2, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.stack([first[:length], second[:length]], axis=1).tobytes())
    return written.getvalue()


@pytest.mark.parametrize("stream", [False, True])
def test_channels_are_transcribed_by_themselves_and_told_in_order_of_time(client, stream):
    more = {"extra_body": {"multichannel": "true"}, "response_format": "verbose_json", "stream": stream}
    granularities = ["segment", "word"]
    found = client.audio.transcriptions.create(
        file=("call.wav", stereo()), model="whisper-1", timestamp_granularities=granularities, **more
    )
    whole = list(found)[-1] if stream else found
    segments = [segment if isinstance(segment, dict) else segment.to_dict() for segment in whole.segments]
    starts = [(segment["start"], segment["channel"]) for segment in segments]
    assert starts == sorted(starts) and {channel for _, channel in starts} == {0, 1}
    of_each = [" ".join(segment["text"] for segment in segments if segment["channel"] == channel) for channel in range(2)]
    assert word_error_rate([text_of(SHORT)], [of_each[0]]) <= 10 and text_of(MID).startswith(of_each[1][:20])
    assert whole.text == " ".join(segment["text"] for segment in segments)


def test_subtitles_of_channels_name_them(client):
    for wanted, mark in (("srt", "Channel 1: "), ("vtt", "<v Channel 2>"), ("text", "Channel 2: ")):
        more = {"extra_body": {"multichannel": "true"}, "response_format": wanted}
        assert mark in client.audio.transcriptions.create(file=("call.wav", stereo()), model="whisper-1", **more)


def test_channels_that_find_no_place_are_refused(client):
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((5, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(bytes(5 * 2 * SAMPLE_RATE))
    with pytest.raises(openai.InternalServerError, match="5 sessions are needed"):
        client.audio.transcriptions.create(
            file=("call.wav", written.getvalue()), model="whisper-1", extra_body={"multichannel": "true"}
        )


def test_subtitles_are_read_by_others(client):
    said = client.audio.transcriptions.create(file=MID, model="whisper-1", response_format="srt")
    cues = list(srt.parse(said, ignore_errors=False))
    assert len(cues) > 5 and word_error_rate([text_of(MID)], [" ".join(cue.content for cue in cues)]) <= 10
    said = client.audio.transcriptions.create(file=MID, model="whisper-1", response_format="vtt")
    captions = webvtt.from_string(said).captions
    assert [caption.text for caption in captions] == [cue.content for cue in cues]
    assert all(len(cue.content) <= 84 and (cue.end - cue.start).total_seconds() <= 7 for cue in cues)


def test_events_come_while_it_is_transcribed_and_add_up_to_the_text(client):
    events = list(client.audio.transcriptions.create(file=MID, model="whisper-1", stream=True))
    *deltas, done = events
    assert len(deltas) >= 2 and {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done" and "".join(event.delta for event in deltas) == done.text


def test_a_translation_of_english_is_a_transcription(client):
    heard = client.audio.translations.create(file=SHORT, model="whisper-1")
    assert word_error_rate([text_of(SHORT)], [heard.text]) <= 10


FORMATS = {
    "wav 8 kHz": ("wav", "pcm_s16le", 8_000, "mono"),
    "wav 44.1 kHz stereo": ("wav", "pcm_s16le", 44_100, "stereo"),
    "wav 48 kHz": ("wav", "pcm_s16le", 48_000, "mono"),
    "wav mu-law": ("wav", "pcm_mulaw", 8_000, "mono"),
    "mp3": ("mp3", "libmp3lame", 44_100, "mono"),
    "flac": ("flac", "flac", 16_000, "mono"),
    "ogg opus": ("ogg", "libopus", 48_000, "mono"),
    "webm": ("webm", "libopus", 48_000, "stereo"),
    "m4a": ("mp4", "aac", 44_100, "mono"),
}


def encoded(samples: np.ndarray, container: str, codec: str, rate: int, layout: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for piece in (*resampler.resample(frame), *resampler.resample(None), None):
            file.mux(stream.encode(piece))
    return out.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_container_is_heard(client, name):
    file = encoded(audio_file.load(SHORT), *FORMATS[name])
    heard = client.audio.transcriptions.create(file=("recording", file), model="whisper-1")
    assert word_error_rate([text_of(SHORT)], [heard.text]) <= 10


def test_a_truncated_file_is_heard_as_far_as_it_goes(client):
    file = encoded(audio_file.load(SHORT), *FORMATS["mp3"])
    heard = client.audio.transcriptions.create(file=("cut.mp3", file[: len(file) // 2]), model="whisper-1")
    assert 4 < heard.usage.seconds < 6 and heard.text


WAV = SHORT.read_bytes()
BAD = {
    "no audio": ({"file": ("a.wav", b"hello, this is text")}, "invalid_file", "file"),
    "a playlist": (
        {"file": ("a.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n")},
        "invalid_file",
        "file",
    ),
    "empty": ({"file": ("a.wav", b"")}, "invalid_file", "file"),
    "no sample": ({"file": ("a.wav", WAV[:44])}, "audio_too_short", "file"),
    "another language": ({"language": "de"}, "unsupported_language", "language"),
    "a hot temperature": ({"temperature": 3.0}, "invalid_value", "temperature"),
    "an unknown format": ({"response_format": "diarized_json"}, "unsupported_value", "response_format"),
    "speakers": ({"extra_body": {"known_speaker_names": ["a"]}}, "unsupported_parameter", "known_speaker_names"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(client, name):
    changed, code, parameter = BAD[name]
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(**{"file": ("a.wav", WAV), "model": "whisper-1"} | changed)
    assert (refused.value.code, refused.value.param) == (code, parameter)
    assert refused.value.type == "invalid_request_error" and refused.value.request_id


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.audio.transcriptions.create(file=("a.wav", WAV), model="nope")
    assert refused.value.code == "model_not_found"


def test_what_moonshine_has_no_use_for_is_taken(client):
    heard = client.audio.transcriptions.create(
        file=("a.wav", WAV),
        model="whisper-1",
        language="en-US",
        prompt="names",
        temperature=0.2,
        chunking_strategy="auto",
        extra_body={"hotwords": "x", "timestamp_granularities": "['word']"},
    )
    assert heard.text


def test_too_much_is_refused(client):
    with pytest.raises(openai.APIStatusError) as refused:
        client.audio.transcriptions.create(file=("a.wav", bytes(9_000_000)), model="whisper-1")
    assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")
    silence = encoded(np.zeros(130 * SAMPLE_RATE, np.int16), *FORMATS["flac"])
    with pytest.raises(openai.APIStatusError) as refused:
        client.audio.transcriptions.create(file=("a.flac", silence), model="whisper-1")
    assert (refused.value.status_code, refused.value.code) == (413, "audio_too_long")


def test_a_body_without_end_is_refused_where_its_length_is_not_said(served):
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(200):
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with httpx.Client(trust_env=False) as http:
        refused = http.post(f"http://{served.address}/v1/audio/transcriptions", content=endless(), headers=headers)
    assert refused.status_code == 413 and refused.json()["error"]["code"] == "file_too_large"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"{}", "application/json"), (b"no form", "multipart/form-data; boundary=x"), (b"", "multipart/form-data")],
)
def test_a_body_that_is_no_form_is_refused(served, body, content_type):
    url = f"http://{served.address}/v1/audio/transcriptions"
    refused = httpx.post(url, content=body, headers={"Content-Type": content_type}, trust_env=False)
    assert refused.status_code == 400 and refused.json()["error"]["type"] == "invalid_request_error"


def test_models_are_listed_and_found(client):
    assert "UsefulSensors/moonshine-base" in [model.id for model in client.models.list()]
    assert client.models.retrieve("UsefulSensors/moonshine-base").id == "UsefulSensors/moonshine-base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-7")


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)  # another process offers nothing to wait on
    return condition()


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_gives_its_place_back(served, stream):
    """In the middle of a transcription that nobody will read."""
    audio = encoded(np.tile(audio_file.load(MID), 2), *FORMATS["flac"])
    parts = {"model": (None, "whisper-1"), "stream": (None, stream), "file": ("a.flac", audio)}
    request = httpx.Request("POST", f"http://{served.address}/v1/audio/transcriptions", files=parts)
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: {request.headers['content-type']}\r\n"
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {request.headers['content-length']}\r\n\r\n".encode() + request.read())
        assert wait_until(lambda: served.get("/readyz").json()["sessions"] == 1)
    assert wait_until(lambda: served.get("/readyz").json()["sessions"] == 0, seconds=3.0)


def test_a_full_server_says_when_to_try_again(start_server):
    server = start_server(ASR_MAX_SESSIONS="1", ASR_TARGET="onnxruntime")
    audio = encoded(np.tile(audio_file.load(MID), 2), *FORMATS["flac"])
    with httpx.Client(trust_env=False) as http:
        parts = {"model": (None, "whisper-1"), "stream": (None, "true"), "file": ("a.flac", audio)}
        with http.stream("POST", f"http://{server.address}/v1/audio/transcriptions", files=parts) as taken:
            with pytest.raises(openai.InternalServerError) as refused:
                client_of(server).audio.transcriptions.create(file=("a.wav", WAV), model="whisper-1")
            assert (refused.value.status_code, refused.value.code) == (503, "server_full")
            assert refused.value.response.headers["retry-after"]
            taken.close()
    assert client_of(server, retries=4).audio.transcriptions.create(file=("a.wav", WAV), model="whisper-1").text
