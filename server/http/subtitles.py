"""Subtitles of segments that a client sends. The page downloads them; the command and the APIs use the same code."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec import Meta

from moonshine_client import subtitles
from server.errors import ClientError, Code
from server.http.bodies import read_small_body
from server.http.openapi import JSON, OBJECT, STRING, TEXT, described, fields

MAX_BYTES = 8 * 1024 * 1024  # some fifteen hours of speech
MAX_MS = 2**40
FORMATS: dict[str, tuple[Callable[..., str], str]] = {"srt": (subtitles.srt, TEXT), "vtt": (subtitles.vtt, "text/vtt")}

Milliseconds = Annotated[int, Meta(ge=0, le=MAX_MS)]


class TimedWord(msgspec.Struct, frozen=True):
    """A word and its times."""

    w: str
    start_ms: Milliseconds
    end_ms: Milliseconds


class TimedSegment(msgspec.Struct, frozen=True):
    """A segment in the format of the server's messages."""

    text: str
    start_ms: Milliseconds
    end_ms: Milliseconds
    words: tuple[TimedWord, ...] | None = None
    channel: Annotated[int, Meta(ge=0)] | None = None


class Segments(msgspec.Struct, frozen=True):
    """The body of a request."""

    segments: Sequence[TimedSegment]


decoder = msgspec.json.Decoder(Segments)


def segments_of(body: bytes) -> Sequence[TimedSegment]:
    """Raises ClientError."""
    try:
        return decoder.decode(body).segments
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ClientError(Code.BAD_JSON, f"the body must have segments: {exc}") from exc


def subtitles_router() -> APIRouter:
    router, one_at_a_time = APIRouter(), asyncio.Lock()
    answers = {200: ("the subtitles", {TEXT: STRING, "text/vtt": STRING})}
    body = {JSON: fields({"segments": {"type": "array", "items": OBJECT}})}

    @router.post(
        "/v1/subtitles/{name}", **described("Live audio", "Segments as srt or vtt", answers, body, errors=(400, 404, 413))
    )
    async def write(request: Request, name: str) -> Response:
        if name not in FORMATS:
            raise ClientError(Code.NOT_FOUND, f"subtitles are {' or '.join(FORMATS)}")
        write_subtitles, media_type = FORMATS[name]
        body = await read_small_body(request, MAX_BYTES)
        async with one_at_a_time:  # the largest body takes a second, and several times its size in memory
            text = await asyncio.to_thread(lambda: write_subtitles(segments_of(body)))
        return Response(text, media_type=f"{media_type}; charset=utf-8")

    return router
