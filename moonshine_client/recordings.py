"""Whole recordings: sent as files, transcribed in parallel, returned as they are transcribed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import IO, Any

import httpx

from moonshine_client.client import CONNECT_SECONDS
from moonshine_client.errors import StreamError
from moonshine_client.subtitles import SubtitleSegment
from moonshine_client.transports import authorization, reason_of, trusted

PATH = "/v1/audio/transcriptions"
FIELDS = {
    "model": "default",
    "response_format": "verbose_json",
    "stream": "true",
    "timestamp_granularities[]": ["word", "segment"],
}


@dataclass(frozen=True)
class ChunkResult:
    """The result of a chunk of the recording, or of all of it."""

    text: str
    segments: tuple[SubtitleSegment, ...]
    end_seconds: float
    is_all: bool


def transcribe_file(
    server: str, file: IO[bytes], name: str, keyterms: Sequence[str] = (), channels: bool = False
) -> Iterator[ChunkResult]:
    """Yield the chunks as they are transcribed, and at the end all of them. server: HOST:PORT or a URL.

    keyterms: words and phrases that are expected. channels: whether each channel is transcribed separately, one after the other.

    Raises StreamError if the server refuses or fails, OSError if it cannot be reached.
    """
    url = (server if "://" in server else f"http://{server}").rstrip("/") + PATH
    timeout = httpx.Timeout(CONNECT_SECONDS, read=None)
    fields = FIELDS | {"keywords[]": list(keyterms), "multichannel": str(channels).lower()}
    try:
        with (
            httpx.Client(timeout=timeout, trust_env=False, verify=trusted(), headers=authorization()) as http,
            http.stream("POST", url, files={"file": (sendable(name), file)}, data=fields) as response,
        ):
            if response.status_code != 200:
                raise failure_of(json_of(response.read()), response.status_code)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield heard_in(json_of(line.removeprefix("data: ")))
    except httpx.TransportError as exc:
        raise ConnectionError(f"no answer from {url}: {reason_of(exc)}") from exc


def json_of(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def failure_of(answer: dict[str, Any], status: int) -> StreamError:
    error = answer.get("error") or {}
    return StreamError(error.get("code") or "bad_answer", error.get("message") or f"HTTP {status}", error)


def heard_in(event: dict[str, Any]) -> ChunkResult:
    """Return the result that an event holds. Raises StreamError if it holds an error."""
    if "error" in event:
        raise failure_of(event, 200)
    words = [timed(word, w=word["word"]) for word in event["words"]]
    segments = tuple(with_words(timed(segment, text=segment["text"]), words) for segment in event["segments"])
    is_all = event["type"] == "transcript.text.done"
    text = event["text"] if is_all else event["delta"]
    return ChunkResult(text, segments, event["duration"], is_all)


def timed(event: dict[str, Any], **more: Any) -> Any:
    start_ms, end_ms = round(event["start"] * 1000), round(event["end"] * 1000)
    return SimpleNamespace(start_ms=start_ms, end_ms=end_ms, words=None, channel=event.get("channel"), **more)


def with_words(segment: Any, words: list[Any]) -> SubtitleSegment:
    """Put words into their segment: OpenAI sends them beside the segments, not within them."""
    segment.words = [
        word for word in words if word.channel == segment.channel and segment.start_ms <= word.start_ms < segment.end_ms
    ]
    return segment  # type: ignore[no-any-return]


def sendable(name: str) -> str:
    """Return a file's name in UTF-8: names of file systems may hold bytes that are not UTF-8."""
    return name.encode("utf-8", "replace").decode()
