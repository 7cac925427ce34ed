"""OpenAI's Realtime API: sessions over a WebSocket, calls over WebRTC, and the secrets with which browsers open them."""

from typing import Any

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from server.access import DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS, ClientSecrets
from server.apis.json_object import parse_object
from server.apis.openai import shapes
from server.apis.openai.call import Calls
from server.apis.openai.errors import OpenAIRoute, refuse
from server.apis.openai.messages import Configuration
from server.apis.openai.session import RealtimeSession
from server.errors import ClientError, Code, ServerError
from server.http.access_control import ApiAccess, caller_of, key_of
from server.http.bodies import SMALL_BODY_BYTES, content_type, counted, read_small_body
from server.http.openapi import JSON, OBJECT, OPENAI_ERROR, SDP, STRING, described, fields
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics
from server.transports.websocket import WebSocketConnection

PREFIX = "/v1/realtime"
SUBPROTOCOL = "realtime"
MESSAGE_BYTES = 21 * 1024 * 1024  # an append may have 15 MiB of audio, in base64
ACCESS = ApiAccess(
    prefix=PREFIX,
    refuse=refuse,
    key_protocols=("openai-insecure-api-key.", shapes.TOKEN_PROTOCOL),
    takes_secrets=True,
    issuing_paths=(f"{PREFIX}/client_secrets", f"{PREFIX}/transcription_sessions"),
)


SECONDS = {"type": "integer", "minimum": LEAST_SECONDS, "maximum": MOST_SECONDS, "default": DEFAULT_SECONDS}
LIFETIME = fields({}, {"anchor": {"const": "created_at"}, "seconds": SECONDS})
SECRET = fields({"value": STRING, "expires_at": {"type": "integer"}, "session": OBJECT})


def realtime_socket_router(sessions: Sessions, secrets: ClientSecrets, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.websocket(PREFIX)
    async def realtime(socket: WebSocket) -> None:
        """Serve a session. OpenAI's clients offer subprotocols, one of which must be chosen."""
        offered = socket.scope.get("subprotocols", [])
        connection = WebSocketConnection(socket, Api.OPENAI_REALTIME, metrics)
        try:
            secret = secrets.read(key_of(socket))
            configuration = Configuration.of(secret.session if secret else None, settings.model.model_id)
            seat = sessions.take_seat(Api.OPENAI_REALTIME, caller_of(socket), connection.end)
        except ServerError as error:
            await socket.send_denial_response(refuse(error))
            return
        shape = shapes.offered(socket.headers.get("openai-beta", ""), offered)
        RealtimeSession(seat, settings.session.idle_timeout_seconds, configuration, connection.send, shape)
        await connection.run(seat, SUBPROTOCOL if SUBPROTOCOL in offered else None)

    return router


def calls_router(calls: Calls, secrets: ClientSecrets) -> APIRouter:
    router = APIRouter(prefix=PREFIX, route_class=OpenAIRoute)

    offer = {SDP: STRING, "multipart/form-data": fields({"sdp": STRING}, {"session": STRING})}
    more: dict[str, Any] = {"error": OPENAI_ERROR, "errors": (400, 401, 413, 503)}

    @router.post("", **described("OpenAI", "A call, by its former address", {201: ("the answer", {SDP: STRING})}, offer, **more))
    @router.post(
        "/calls",
        **described(
            "OpenAI",
            "A Realtime session over WebRTC; Location is the call's address",
            {201: ("the answer", {SDP: STRING})},
            offer,
            **more,
        ),
    )
    async def call(request: Request) -> Response:
        """Open a call. Browsers send only the offer, with a client secret; the SDKs send a form with offer and session."""
        sdp, session = await read_call(request)
        peer, answer = await calls.open(sdp, session or secret_session(request, secrets), caller_of(request))
        return Response(answer, 201, {"Location": f"{PREFIX}/calls/{peer.name}"}, SDP)

    @router.post(
        "/calls/{name}/hangup",
        **described(
            "OpenAI", "End a call; what was said is completed", {200: ("it ends", {})}, error=OPENAI_ERROR, errors=(404,)
        ),
    )
    async def hang_up(name: str) -> Response:
        peer = calls.find(name)
        if peer is None:
            raise ClientError(Code.NOT_FOUND, "there is no such call, or it has ended")
        peer.hang_up()
        return Response(status_code=200)

    return router


def secrets_router(secrets: ClientSecrets, settings: Settings) -> APIRouter:
    """Serve the secrets with which browsers open sessions."""
    router = APIRouter(prefix=PREFIX, route_class=OpenAIRoute)
    model_id = settings.model.model_id

    @router.post(
        "/transcription_sessions",
        **described(
            "OpenAI", "A session of the beta, with its secret", {200: ("the session", {JSON: OBJECT})}, error=OPENAI_ERROR
        ),
    )
    async def beta_session(request: Request) -> Response:
        """Answer clients of OpenAI's beta and of NVIDIA's Riva, which sends back the session that it gets."""
        issued = secrets.issue({}, caller=caller_of(request))
        session = shapes.beta_session(Configuration(model_id).as_json())
        riva = {"input_audio_params": {"sample_rate_hz": 16_000, "num_channels": 1}, "recognition_config": {}}
        return JSONResponse(session | riva | {"client_secret": {"value": issued.value, "expires_at": issued.expires_at}})

    @router.post(
        "/client_secrets",
        **described(
            "OpenAI",
            "A key for a browser that is good for a while",
            {200: ("the secret", {JSON: SECRET})},
            {JSON: fields({}, {"session": OBJECT, "expires_after": LIFETIME})},
            error=OPENAI_ERROR,
            errors=(400,),
        ),
    )
    async def client_secret(request: Request) -> Response:
        asked = parse_object(await read_small_body(request) or b"{}", "the body")
        session = {} if asked.get("session") is None else asked["session"]
        configuration = Configuration.of(session, model_id)
        issued = secrets.issue(session, lifetime_seconds(asked.get("expires_after")), caller_of(request))
        described = configuration.as_json() | {"expires_at": issued.expires_at}
        return JSONResponse({"value": issued.value, "expires_at": issued.expires_at, "session": described})

    return router


async def read_call(request: Request) -> tuple[str, Any]:
    """Return the offer, and the session if one is given. Raises ClientError."""
    if content_type(request) == SDP:
        return (await read_small_body(request)).decode(errors="replace"), None
    limited = Request(request.scope, counted(request.receive, 2 * SMALL_BODY_BYTES))
    async with limited.form(max_files=2, max_fields=4, max_part_size=SMALL_BODY_BYTES) as form:
        sdp, session = [await text_of(form.get(name)) for name in ("sdp", "session")]
    if not sdp:
        raise ClientError(Code.MISSING_PARAMETER, f"the offer is missing: as {SDP}, or as the field sdp of a form", "sdp")
    return sdp, parse_object(session, "the body") if session else None


async def text_of(field: UploadFile | str | None) -> str:
    if isinstance(field, UploadFile):
        return (await field.read()).decode(errors="replace")
    return field or ""


def lifetime_seconds(expires_after: object) -> int:
    """Raises ClientError."""
    if expires_after is None:
        return DEFAULT_SECONDS
    seconds = expires_after.get("seconds", DEFAULT_SECONDS) if isinstance(expires_after, dict) else None
    if not isinstance(seconds, int) or not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise ClientError(Code.INVALID_VALUE, f"seconds must be from {LEAST_SECONDS} to {MOST_SECONDS}", "expires_after.seconds")
    return seconds


def secret_session(request: Request, secrets: ClientSecrets) -> Any:
    """Return the session that the client's secret was issued for. Raises ClientError."""
    secret = secrets.read(key_of(request))
    return secret.session if secret else None
