"""OpenAI's REST API: whole recordings in, text out."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.apis.openai import transcription
from server.apis.openai.errors import OpenAIRoute, refuse
from server.apis.openai.transcription import ServedModel, TranscriptionParameters
from server.audio.container import count_channels
from server.errors import ServerError
from server.http.access_control import ApiAccess, caller_of
from server.http.bodies import CLIENT_LEFT, check_announced, counted, while_connected
from server.http.forms import FORM, file_of, read_form
from server.http.openapi import BINARY, EVENTS, JSON, OBJECT, OPENAI_ERROR, STRING, TEXT, described, fields, one_of
from server.sessions.recording import ChunkText, Recording, joined, whole
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api

ACCESS = ApiAccess(prefix="/v1/", refuse=refuse)
UPLOAD = fields(
    {"file": BINARY, "model": STRING},
    {
        "language": STRING,
        "response_format": one_of(*transcription.ResponseFormat, default="json"),
        "timestamp_granularities[]": {"type": "array", "items": one_of("segment", "word")},
        "stream": {"type": "boolean", "default": False},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "prompt": STRING,
        "keywords[]": {"type": "array", "items": STRING},
        "include[]": {"type": "array", "items": one_of("logprobs")},
        "multichannel": {"type": "boolean", "default": False},
    },
)


def transcriptions_router(sessions: Sessions, settings: Settings, served: ServedModel) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=OpenAIRoute)

    files = {
        200: (
            "the transcription, in the format that was asked for",
            {
                JSON: OBJECT,
                TEXT: STRING,
                "text/vtt": STRING,
                EVENTS: STRING,
            },
        )
    }
    more: dict[str, Any] = {"error": OPENAI_ERROR, "errors": (400, 404, 413, 503)}

    @router.post("/audio/transcriptions", **described("OpenAI", "A recording into text", files, {FORM: UPLOAD}, **more))
    @router.post(
        "/audio/translations",
        **described("OpenAI", "The same: English comes in, English goes out", files, {FORM: UPLOAD}, **more),
    )
    async def transcribe(request: Request) -> Response:
        return await Upload(request, sessions, settings).answer()

    @router.head("/models", include_in_schema=False)
    @router.get("/models/", include_in_schema=False)
    @router.get("/models", **described("OpenAI", "The models that are served", {200: ("a list", {JSON: OBJECT})}))
    async def models() -> Response:
        return JSONResponse(served.listing)

    @router.get(
        "/models/{name:path}",
        **described("OpenAI", "A model by its name", {200: ("the model", {JSON: OBJECT})}, error=OPENAI_ERROR, errors=(404,)),
    )
    async def model(name: str) -> Response:
        return JSONResponse(served.find(name))

    return router


class Upload:
    """One request with a recording."""

    def __init__(self, request: Request, sessions: Sessions, settings: Settings):
        self._sessions, self._files, self._model_id = sessions, settings.files, settings.model.model_id
        self._limit_bytes = settings.files.max_upload_mb * 1_000_000
        self._request = Request(request.scope, counted(request.receive, self._limit_bytes))

    async def answer(self) -> Response:
        """Raises ServerError."""
        if refused := self._sessions.refusal():
            raise refused  # before the file is read; the place is taken after that, so that slow senders hold none
        check_announced(self._request, self._limit_bytes)
        async with contextlib.AsyncExitStack() as opened:
            parameters, file = await self._read(opened)
            channels = range(await count_channels(file)) if parameters.is_split else (None,)
            recording = Recording(self._sessions.take_seat(Api.OPENAI_REST, caller_of(self._request), places=len(channels)))
            opened.callback(recording.drop)
            texts = recording.transcribe_file(file, self._files, parameters.options, channels)
            opened.push_async_callback(texts.aclose)
            if parameters.is_streamed:
                return EventStream(parameters, texts, opened.pop_all())
            found = await while_connected(self._request.receive, whole(texts))
        if found is None:
            return Response(status_code=CLIENT_LEFT)
        content, media_type = transcription.body(parameters, found)
        return Response(content, media_type=media_type)

    async def _read(self, opened: contextlib.AsyncExitStack) -> tuple[TranscriptionParameters, BinaryIO]:
        """Return the parameters, and the file, which is in memory if it is small and otherwise on disk."""
        form = await read_form(self._request)
        opened.push_async_callback(form.close)
        texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        parameters = transcription.parse(texts, self._model_id)
        return parameters, file_of(form)


class EventStream(StreamingResponse):
    """Sends OpenAI's events while the recording is transcribed. At its end it closes the request's resources."""

    def __init__(self, parameters: TranscriptionParameters, texts: AsyncIterator[ChunkText], opened: contextlib.AsyncExitStack):
        super().__init__(events(parameters, texts), media_type="text/event-stream")
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened:
            await super().__call__(scope, receive, send)


async def events(parameters: TranscriptionParameters, texts: AsyncIterator[ChunkText]) -> AsyncIterator[str]:
    """Yield one event for each chunk with words, and one with the whole text at the end."""
    chunks: list[ChunkText] = []
    try:
        async for chunk in texts:
            if chunk.text:
                is_first = not any(each.text for each in chunks)
                text = chunk.text if is_first else f" {chunk.text}"
                yield transcription.delta(parameters, text, joined([chunk]))
            chunks.append(chunk)
    except ServerError as error:
        yield transcription.server_sent(transcription.error_body(error))
        return
    yield transcription.done(parameters, joined(chunks))
