"""Deepgram's POST /v1/listen: a whole recording as the body."""

import contextlib
import hashlib
import tempfile
from typing import IO

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.apis.deepgram import messages as deepgram
from server.apis.openai.routes import counted, too_large, while_connected, whole
from server.audio import container
from server.errors import ClientError, Code, ServerError
from server.http.access_control import caller_of
from server.http.error_responses import CLIENT_LEFT, refuse_deepgram
from server.http.openapi import BINARY, DEEPGRAM_ERROR, JSON, OBJECT, STRING, described
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api


def listen_router(sessions: Sessions, settings: Settings) -> APIRouter:
    router = APIRouter()
    model_id = settings.model.model_id

    query = {"model": STRING, "language": STRING, "utterances": {"type": "boolean"}}

    @router.post("/v1/listen", **described(
        "Deepgram", "A recording, as Deepgram's prerecorded transcription", {200: ("the transcript", {JSON: OBJECT})},
        {"application/octet-stream": BINARY, "audio/*": BINARY}, query, DEEPGRAM_ERROR, errors=(400, 413, 503),
    ))  # fmt: skip
    async def listen(request: Request) -> Response:
        try:
            return await answer(request, sessions, settings, model_id)
        except ServerError as error:
            return refuse_deepgram(error)

    return router


async def answer(request: Request, sessions: Sessions, settings: Settings, model_id: str) -> Response:
    """Raises ServerError."""
    query = dict(request.query_params)
    deepgram.check(query, model_id)
    if refused := sessions.refusal():
        raise refused
    if request.headers.get("content-type", "").startswith("application/json"):
        raise ClientError(Code.UNSUPPORTED_PARAMETER, "recordings are taken as the body; addresses are not fetched", "url")
    with tempfile.TemporaryFile() as file, contextlib.ExitStack() as opened:
        sha256 = await read_body(request, file, settings.files.max_upload_mb * 1_000_000)
        recording = sessions.open_recording(Api.DEEPGRAM, caller_of(request))
        opened.callback(recording.drop)
        audio = container.decode(file, settings.files.max_file_seconds)
        heard = recording.transcribe(audio, words=True, parallel=settings.files.parallel_stretches)
        async with contextlib.aclosing(audio), contextlib.aclosing(heard):
            found = await while_connected(request.receive, whole(heard))
    if found is None:
        return Response(status_code=CLIENT_LEFT)
    utterances = deepgram.is_true(query, "utterances")
    return JSONResponse(deepgram.whole(found.text, found.segments, found.seconds, model_id, sha256, utterances))


async def read_body(request: Request, file: IO[bytes], limit_bytes: int) -> str:
    """Returns its SHA-256. Raises ClientError where it is too large."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise too_large(limit_bytes)
    digest = hashlib.sha256()
    async for chunk in Request(request.scope, counted(request.receive, limit_bytes)).stream():
        file.write(chunk)
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
