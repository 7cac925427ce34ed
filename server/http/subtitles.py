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


def subtitles_router() -> APIRouter:
    router = APIRouter()
    answers = {200: ("the subtitles", {TEXT: STRING, "text/vtt": STRING})}
    body = {JSON: fields({"segments": {"type": "array", "items": OBJECT}})}

    @router.post(
        "/v1/subtitles/{name}", **described("Live audio", "Segments as srt or vtt", answers, body, errors=(400, 404, 413))
    )
    async def write(request: Request, name: str) -> Response:
        if name not in FORMATS:
            raise ClientError(Code.NOT_FOUND, f"subtitles are {' or '.join(FORMATS)}")
        write_subtitles, media_type = FORMATS[name]
        try:
            found = decoder.decode(await read_small_body(request, MAX_BYTES))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise ClientError(Code.BAD_JSON, f"the body must have segments: {exc}") from exc
        text = await asyncio.to_thread(write_subtitles, found.segments)  # the largest body takes a second
        return Response(text, media_type=f"{media_type}; charset=utf-8")

    return router
