"""The words of a broadcast, by the name of its session or of its channel."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from moonshine_client import subtitles
from server.apis.broadcast.broadcasts import Broadcast, Broadcasts
from server.apis.session_names import LIVE, WANTED, no_sender, no_session
from server.http.openapi import EVENTS, STRING, described

CHANNELS = "/v1/channels"
WORDS = {200: ("messages of the data channel", {EVENTS: STRING})}
CAPTIONS = {200: ("WebVTT", {"text/vtt": STRING})}


def session_words_router(broadcasts: Broadcasts, prefix: str) -> APIRouter:
    """Serve the words of sessions, by names that nobody can guess. prefix: prefix of their paths."""
    router = APIRouter(prefix=prefix)

    @router.get("/{name}/events", **described("Words", "The words as they come", WORDS, errors=(404,)))
    async def events(name: str) -> Response:
        return events_of(find(broadcasts, name))

    @router.get("/{name}/captions.vtt", **described("Words", "Captions so far", CAPTIONS, errors=(404,)))
    async def captions(name: str) -> Response:
        return captions_of(find(broadcasts, name))

    return router


def channel_words_router(broadcasts: Broadcasts, prefix: str = CHANNELS) -> APIRouter:
    """Serve the words of channels, for senders of every API. prefix: prefix of their paths."""
    router = APIRouter(prefix=prefix)

    @router.get("/{channel}/events", **described("Words", "The words of a channel as they come", WORDS, errors=(404,)))
    async def events(request: Request, channel: str) -> Response:
        return events_of(find_channel(broadcasts, request, channel))

    @router.get("/{channel}/captions.vtt", **described("Words", "Captions of a channel so far", CAPTIONS, errors=(404,)))
    async def captions(request: Request, channel: str) -> Response:
        return captions_of(find_channel(broadcasts, request, channel))

    return router


def find(broadcasts: Broadcasts, name: str) -> Broadcast:
    """Raises ClientError if there is none."""
    if found := broadcasts.find(name):
        return found
    raise no_session()


def find_channel(broadcasts: Broadcasts, request: Request, channel: str) -> Broadcast:
    """Raises ClientError."""
    found = broadcasts.find_channel(channel)
    if found and not (request.headers.get(WANTED) == LIVE and found.has_left):
        return found
    raise no_sender()


def events_of(broadcast: Broadcast) -> Response:
    return StreamingResponse(broadcast.events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def captions_of(broadcast: Broadcast) -> Response:
    return Response(subtitles.vtt(broadcast.session.segments), media_type="text/vtt; charset=utf-8")
