"""OpenAI's REST API: whole recordings in, text out."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from server.apis.openai import transcription as openai
from server.apis.openai.transcription import Asked, Transcription
from server.audio import container
from server.errors import ClientError, Code, ServerError
from server.http.access_control import caller_of
from server.http.error_responses import CLIENT_LEFT, refuse
from server.http.openapi import BINARY, EVENTS, JSON, OBJECT, OPENAI_ERROR, STRING, TEXT, described, fields, one_of
from server.sessions.recording import Heard, Recording
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api

MAX_FIELDS, MAX_FIELD_BYTES = 200, 64 * 1024
FORM = "multipart/form-data"
UPLOAD = fields({"file": BINARY, "model": STRING}, {
    "language": STRING, "response_format": one_of(*openai.Format, default="json"),
    "timestamp_granularities[]": {"type": "array", "items": one_of("segment", "word")},
    "stream": {"type": "boolean", "default": False}, "temperature": {"type": "number", "minimum": 0, "maximum": 1},
    "prompt": STRING,
})  # fmt: skip


class OpenAIRoute(APIRoute):
    """Errors in OpenAI's shape, and a name for each request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except ServerError as error:
                response = refuse(error)
            response.headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
            return response

        return answer


def transcriptions_router(sessions: Sessions, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=OpenAIRoute)
    model_id = settings.model.model_id

    files = {200: ("the transcription, in the format that was asked for", {
        JSON: OBJECT, TEXT: STRING, "text/vtt": STRING, EVENTS: STRING,
    })}  # fmt: skip
    more: dict[str, Any] = {"error": OPENAI_ERROR, "errors": (400, 404, 413, 503)}

    @router.post("/audio/transcriptions", **described("OpenAI", "A recording into text", files, {FORM: UPLOAD}, **more))
    @router.post("/audio/translations", **described(
        "OpenAI", "The same: English comes in, English goes out", files, {FORM: UPLOAD}, **more
    ))  # fmt: skip
    async def transcribe(request: Request) -> Response:
        return await Upload(request, sessions, settings).answer()

    @router.get("/models", **described("OpenAI", "The models that are served", {200: ("a list", {JSON: OBJECT})}))
    async def models() -> Response:
        return JSONResponse(openai.model_list(model_id))

    @router.get("/models/{name:path}", **described(
        "OpenAI", "A model by its name", {200: ("the model", {JSON: OBJECT})}, error=OPENAI_ERROR, errors=(404,)
    ))  # fmt: skip
    async def model(name: str) -> Response:
        return JSONResponse(openai.find_model(name, model_id))

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
            raise refused  # before the file is taken; the place is taken behind it, so that slow senders hold none
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit_bytes:
            raise too_large(self._limit_bytes)
        async with contextlib.AsyncExitStack() as opened:
            asked, file = await self._read(opened)
            recording = self._sessions.open_recording(Api.OPENAI_REST, caller_of(self._request))
            opened.callback(recording.drop)
            heard = self._hear(recording, file, asked.words)
            opened.push_async_callback(heard.aclose)
            if asked.is_streamed:
                return EventStream(asked, heard, opened.pop_all())
            transcription = await while_connected(self._request.receive, whole(heard))
        if transcription is None:
            return Response(status_code=CLIENT_LEFT)
        content, media_type = openai.body(asked, transcription)
        return Response(content, media_type=media_type)

    async def _read(self, opened: contextlib.AsyncExitStack) -> tuple[Asked, BinaryIO]:
        """What is asked, and the file, which is in memory where it is small and else on disk."""
        try:
            form = await opened.enter_async_context(
                self._request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
            )
        except HTTPException as exc:  # what Starlette makes of a MultiPartException
            raise ClientError(Code.INVALID_VALUE, f"the body is no form that can be read: {exc.detail}") from exc
        except AssertionError as exc:
            raise ClientError(Code.INVALID_VALUE, "the body must be multipart/form-data") from exc
        asked = openai.parse([(name, value) for name, value in form.multi_items() if isinstance(value, str)], self._model_id)
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ClientError(Code.MISSING_PARAMETER, "the field file is missing: a recording, with a file name", "file")
        return asked, file.file

    async def _hear(self, recording: Recording, file: BinaryIO, words: bool) -> AsyncGenerator[Heard, None]:
        audio = container.decode(file, self._files.max_file_seconds)
        async with contextlib.aclosing(audio), contextlib.aclosing(
            recording.transcribe(audio, words, self._files.parallel_stretches)
        ) as heard:  # fmt: skip
            async for stretch in heard:
                yield stretch


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Transcription]) -> Transcription | None:
    """None where the client has left: nobody waits for the rest."""
    task, left = asyncio.create_task(work), asyncio.create_task(until_left(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        left.cancel()
        task.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


def counted(receive: Receive, limit_bytes: int) -> Receive:
    """Raises ClientError once the body has more bytes."""
    received = 0

    async def count() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            raise too_large(limit_bytes)
        return message

    return count


def too_large(limit_bytes: int) -> ClientError:
    return ClientError(Code.FILE_TOO_LARGE, f"a file may have {limit_bytes // 1_000_000} MB", "file")


async def until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def whole(heard: AsyncIterator[Heard]) -> Transcription:
    stretches = [stretch async for stretch in heard]
    return transcription_of(stretches)


def transcription_of(stretches: list[Heard]) -> Transcription:
    text = " ".join(stretch.text for stretch in stretches if stretch.text)
    seconds = stretches[-1].end_ms / 1000 if stretches else 0.0
    return Transcription(text, tuple(segment for stretch in stretches for segment in stretch.segments), seconds)


class EventStream(StreamingResponse):
    """OpenAI's events, while the recording is transcribed. Closes behind itself what the request has opened."""

    def __init__(self, asked: Asked, heard: AsyncIterator[Heard], opened: contextlib.AsyncExitStack):
        super().__init__(events(asked, heard), media_type="text/event-stream")
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened:
            await super().__call__(scope, receive, send)


async def events(asked: Asked, heard: AsyncIterator[Heard]) -> AsyncIterator[str]:
    """One for each stretch with words, and the whole at the end."""
    stretches: list[Heard] = []
    try:
        async for stretch in heard:
            if stretch.text:
                is_first = not any(each.text for each in stretches)
                text = stretch.text if is_first else f" {stretch.text}"
                yield openai.delta(asked, text, transcription_of([stretch]))
            stretches.append(stretch)
    except ServerError as error:
        yield openai.server_sent(openai.error_body(error))
        return
    yield openai.done(asked, transcription_of(stretches))
