"""Deepgram's /v1/listen: a live stream over a WebSocket, or a whole recording as the body of a POST."""

import contextlib
import hashlib
import tempfile
from typing import IO

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from server.apis.deepgram import messages
from server.apis.deepgram.session import DeepgramSession
from server.audio.container import LiveDecoder
from server.errors import ClientError, Code, ServerError
from server.http.access_control import ApiAccess, caller_of
from server.http.bodies import CLIENT_LEFT, check_announced, counted, while_connected
from server.http.error_responses import headers_of
from server.http.openapi import BINARY, DEEPGRAM_ERROR, JSON, OBJECT, STRING, described
from server.sessions.recording import Recording, whole
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics
from server.transports.websocket import WebSocketConnection, first_subprotocol

PATH = "/v1/listen"


def refuse(error: ServerError) -> Response:
    """Answer with an error in Deepgram's shape."""
    return JSONResponse(messages.error_body(error), status_code=error.code.http_status, headers=headers_of(error))


ACCESS = ApiAccess(prefix=PATH, refuse=refuse, pair_protocols=("token", "bearer"))


def deepgram_router(sessions: Sessions, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()
    query = {"model": STRING, "language": STRING, "utterances": {"type": "boolean"}}

    @router.post(
        PATH,
        **described(
            "Deepgram",
            "A recording, as Deepgram's prerecorded transcription",
            {200: ("the transcript", {JSON: OBJECT})},
            {"application/octet-stream": BINARY, "audio/*": BINARY},
            query,
            DEEPGRAM_ERROR,
            errors=(400, 413, 503),
        ),
    )
    async def listen(request: Request) -> Response:
        try:
            return await answer(request, sessions, settings)
        except ServerError as error:
            return refuse(error)

    @router.websocket(PATH)
    async def listen_live(socket: WebSocket) -> None:
        """Deepgram's clients may bring their key as a second subprotocol; the first is chosen."""
        connection = WebSocketConnection(socket, Api.DEEPGRAM, metrics)
        try:
            parameters = messages.parse(dict(socket.query_params), settings.model.model_id)
            if parameters.audio_format is None:
                connection = ContainerConnection(socket, Api.DEEPGRAM, metrics)
            seat = sessions.take_seat(Api.DEEPGRAM, caller_of(socket), connection.end)
        except ServerError as error:
            await socket.send_denial_response(refuse(error))
            return
        DeepgramSession(seat, parameters, settings.model.model_id, connection.send)
        await connection.run(seat, first_subprotocol(socket), {"dg-request-id": parameters.request_id})

    return router


class ContainerConnection(WebSocketConnection):
    """A socket whose client sends a container in pieces, such as WebM of a browser's MediaRecorder."""

    def begin(self, seat: Seat) -> None:
        async def receive(pcm: bytes) -> None:
            seat.receive_audio(pcm)
            await seat.until_ready()

        self._decoder = LiveDecoder(receive, seat.finish_with)

    def stop(self) -> None:
        self._decoder.stop()

    async def receive_text(self, seat: Seat, text: str) -> None:
        if messages.closes_stream(text):
            await self._decoder.finish()
        seat.receive_text(text)

    async def receive_audio(self, seat: Seat, audio: bytes) -> None:
        seat.receive_piece()
        if audio:
            await self._decoder.take(audio)
        else:
            await self._decoder.finish()
            seat.receive_audio(audio)


async def answer(request: Request, sessions: Sessions, settings: Settings) -> Response:
    """Raises ServerError."""
    query, model_id = dict(request.query_params), settings.model.model_id
    messages.check(query, model_id)
    if refused := sessions.refusal():
        raise refused
    if request.headers.get("content-type", "").startswith("application/json"):
        raise ClientError(Code.UNSUPPORTED_PARAMETER, "recordings are taken as the body; addresses are not fetched", "url")
    with tempfile.TemporaryFile() as file, contextlib.ExitStack() as opened:
        sha256 = await read_body(request, file, settings.files.max_upload_mb * 1_000_000)
        recording = Recording(sessions.take_seat(Api.DEEPGRAM, caller_of(request)))
        opened.callback(recording.drop)
        async with contextlib.aclosing(recording.transcribe_file(file, settings.files, words=True)) as texts:
            found = await while_connected(request.receive, whole(texts))
    if found is None:
        return Response(status_code=CLIENT_LEFT)
    utterances = messages.is_true(query, "utterances")
    return JSONResponse(messages.whole(found.text, found.segments, found.seconds, model_id, sha256, utterances))


async def read_body(request: Request, file: IO[bytes], limit_bytes: int) -> str:
    """Write the body into the file; returns its SHA-256. Raises ClientError where it is too large."""
    check_announced(request, limit_bytes)
    digest = hashlib.sha256()
    async for chunk in Request(request.scope, counted(request.receive, limit_bytes)).stream():
        file.write(chunk)
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
