"""The app, asked without a server: what its own disk does to a request."""

import asyncio
import errno
import io
import wave

import httpx
import pytest
from starlette import formparsers

from server.apis.deepgram import routes as deepgram
from server.app import create_app
from server.settings import Settings
from server.telemetry.metrics import Metrics
from tests.server.sessions.test_registry import FakeTranscriber, make_sessions


def recording(seconds: float) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(int(seconds * 32_000)))
    return written.getvalue()


async def ask(method: str, path: str, **arguments: object) -> httpx.Response:
    metrics = Metrics()
    sessions = make_sessions(FakeTranscriber(), metrics=metrics)
    sessions.start()
    transport = httpx.ASGITransport(create_app(sessions, metrics, Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.request(method, path, **arguments)
    await sessions.shut_down(1.0)
    return answer


class FullDisk(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def rollover(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch) -> None:
    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", lambda *_, **__: FullDisk())
    monkeypatch.setattr(deepgram.tempfile, "TemporaryFile", FullDisk)


def test_a_full_disk_is_told_in_the_form_of_the_api(full_disk):
    """It used to be 500 in plain text, which no SDK reads."""
    files = {"file": ("a.wav", recording(1.0))}
    answer = asyncio.run(ask("POST", "/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files))
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    answer = asyncio.run(ask("POST", "/v1/listen", content=recording(1.0)))
    assert (answer.status_code, answer.json()["err_code"]) == (507, "STORAGE_FULL")


@pytest.mark.parametrize("filename", ['; filename="a.wav"', ""])
def test_a_file_part_needs_no_file_name(filename):
    parts = [
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n',
        f'--B\r\nContent-Disposition: form-data; name="file"{filename}\r\n'.encode() + b"Content-Type: audio/wav\r\n\r\n",
        recording(3.0),  # more than a text field may have
        b"\r\n--B--\r\n",
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = asyncio.run(ask("POST", "/v1/audio/transcriptions", content=b"".join(parts), headers=headers))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/acceptz", "/v1/models"])
def test_a_head_is_answered_where_a_get_is(path):
    answer = asyncio.run(ask("HEAD", path))
    assert answer.status_code in (200, 503)


def test_a_slash_after_the_models_asks_for_all_of_them():
    assert asyncio.run(ask("GET", "/v1/models/")).json()["object"] == "list"


SEGMENT = {"text": "one two", "start_ms": 0, "end_ms": 300, "words": [{"w": "one", "start_ms": 0, "end_ms": 100}]}


def test_segments_are_written_as_subtitles():
    answer = asyncio.run(ask("POST", "/v1/subtitles/srt", json={"segments": [SEGMENT]}))
    assert answer.text == "1\n00:00:00,000 --> 00:00:00,800\none\n"
    answer = asyncio.run(ask("POST", "/v1/subtitles/vtt", json={"segments": [SEGMENT | {"words": None}]}))
    assert answer.text.startswith("WEBVTT\n\n00:00:00.000") and answer.headers["content-type"].startswith("text/vtt")


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("srt", b"{}", 400),
        ("srt", b"[", 400),
        ("srt", b'{"\xb6segments": []}', 400),
        ("srt", b'{"segments": [{"text": "a", "start_ms": -1, "end_ms": 5}]}', 400),
        ("ass", b'{"segments": []}', 404),
        ("srt", bytes(9 * 1024 * 1024), 413),
    ],
)
def test_what_is_no_list_of_segments_is_refused_by_name(path, content, status):
    answer = asyncio.run(ask("POST", f"/v1/subtitles/{path}", content=content))
    assert answer.status_code == status and answer.json()["message"]
