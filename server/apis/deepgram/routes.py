"""Deepgram's /v1/listen: a live stream over a WebSocket, or a whole recording as the body of a POST."""

import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from typing import IO, Any

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from server.apis.deepgram import flux_query, messages, query, recordings
from server.apis.deepgram.flux_session import FluxSession
from server.apis.deepgram.session import DeepgramSession
from server.audio.container import LiveDecoder, count_channels
from server.errors import ClientError, Code, ServerError
from server.http.access_control import ApiAccess, caller_of
from server.http.bodies import CLIENT_LEFT, check_announced, counted, while_connected
from server.http.error_responses import headers_of
from server.http.openapi import BINARY, DEEPGRAM_ERROR, JSON, OBJECT, STRING, described
from server.sessions.recording import ChunkText, Recording, joined
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Settings
from server.stream.stream import Options
from server.telemetry.metrics import Api, Metrics
from server.transports.websocket import WebSocketConnection, first_subprotocol

PATH, FLUX_PATH = "/v1/listen", "/v2/listen"
FLAGS = ("utterances", "paragraphs", "smart_format", "multichannel", "numerals", "profanity_filter", "filler_words")
LISTS = ("keyterm", "keywords", "redact", "replace", "search")
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "model": STRING,
    "language": STRING,
    **dict.fromkeys(FLAGS, {"type": "boolean"}),
    **dict.fromkeys(LISTS, {"type": "array", "items": STRING}),
}
"""Parameters of a recording that are used."""


def refuse(error: ServerError) -> Response:
    """Answer with an error in Deepgram's shape. Its clients show the header if they cannot read the body of a handshake."""
    headers = {**headers_of(error), "dg-error": " ".join(error.message.encode("ascii", "replace").decode().split())}
    return JSONResponse(messages.error_body(error), status_code=error.code.http_status, headers=headers)


ACCESS = ApiAccess(prefix=PATH, refuse=refuse, pair_protocols=("token", "bearer"))
FLUX_ACCESS = ApiAccess(prefix=FLUX_PATH, refuse=refuse, pair_protocols=("token", "bearer"))


def deepgram_router(sessions: Sessions, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.post(
        PATH,
        **described(
            "Deepgram",
            "A recording, as Deepgram's prerecorded transcription",
            {200: ("the transcript", {JSON: OBJECT})},
            {"application/octet-stream": BINARY, "audio/*": BINARY},
            PARAMETERS,
            DEEPGRAM_ERROR,
            errors=(400, 413, 503),
        ),
    )
    async def listen(request: Request) -> Response:
        try:
            return await answer(request, sessions, settings)
        except ServerError as error:
            return refuse(error)

    async def serve(socket: WebSocket, parse: Callable[..., Any], session_of: Callable[..., Any]) -> None:
        """Serve a socket. Deepgram's clients may send their key as a second subprotocol; the first is chosen."""
        connection, model_id = WebSocketConnection(socket, Api.DEEPGRAM, metrics), settings.model.model_id
        try:
            asked = parse(socket.query_params.multi_items(), model_id)
            if asked.is_container:
                taken = range(asked.channels) if asked.is_split else None
                connection = ContainerConnection(socket, Api.DEEPGRAM, metrics, taken)
            seat = sessions.take_seat(Api.DEEPGRAM, caller_of(socket), connection.end, places=asked.channels)
        except ServerError as error:
            await socket.send_denial_response(refuse(error))
            return
        session_of(seat, asked, model_id, connection.send)
        await connection.run(seat, first_subprotocol(socket), {"dg-request-id": asked.request_id})

    @router.websocket(PATH)
    async def listen_live(socket: WebSocket) -> None:
        await serve(socket, query.parse, DeepgramSession)

    @router.websocket(FLUX_PATH)
    async def listen_for_turns(socket: WebSocket) -> None:
        await serve(socket, flux_query.parse, FluxSession)

    return router


class ContainerConnection(WebSocketConnection):
    """A socket whose client sends a container in pieces, such as WebM of a browser's MediaRecorder."""

    takes_at_once = False

    def __init__(self, socket: WebSocket, api: Api, metrics: Metrics, channels: range | None):
        """channels: channels to take, each by itself; None: all mixed into one."""
        super().__init__(socket, api, metrics)
        self._channels = channels

    def begin(self, seat: Seat) -> None:
        async def receive(pcm: bytes) -> None:
            seat.receive_audio(pcm)
            await seat.until_ready()

        self._decoder = LiveDecoder(receive, seat.finish_with, self._channels)

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
    fields, model_id = request.query_params.multi_items(), settings.model.model_id
    asked = dict(fields)
    query.check(asked, model_id)
    phrases = query.parse_search(fields)
    options = Options(words=True, terms=query.parse_terms(fields), text=query.parse_text_options(fields, model_id))
    if refused := sessions.refusal():
        raise refused
    if request.headers.get("content-type", "").startswith("application/json"):
        raise ClientError(Code.UNSUPPORTED_PARAMETER, "recordings are taken as the body; addresses are not fetched", "url")
    with tempfile.TemporaryFile() as file:
        sha256 = await read_body(request, file, settings.files.max_upload_mb * 1_000_000)
        channels = range(await count_channels(file)) if query.is_true(asked, "multichannel") else (None,)
        recording = Recording(sessions.take_seat(Api.DEEPGRAM, caller_of(request), places=len(channels)))
        try:
            async with contextlib.aclosing(recording.transcribe_file(file, settings.files, options, channels)) as texts:
                found = await while_connected(request.receive, collected(texts))
        finally:
            recording.drop()
    if found is None:
        return Response(status_code=CLIENT_LEFT)
    of_each = [joined([text for text in found if text.channel == channel]) for channel in channels]
    return JSONResponse(recordings.answer(asked, phrases, of_each, model_id, sha256))


async def collected(texts: AsyncIterator[ChunkText]) -> list[ChunkText]:
    return [text async for text in texts]


async def read_body(request: Request, file: IO[bytes], limit_bytes: int) -> str:
    """Write the body into the file; returns its SHA-256. Raises ClientError if it is too large."""
    check_announced(request, limit_bytes)
    digest = hashlib.sha256()
    async for chunk in Request(request.scope, counted(request.receive, limit_bytes)).stream():
        file.write(chunk)
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
