"""Routes of the server's own protocol: WebRTC offers, and /ws for networks that block UDP."""

import json

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from server.apis.native.messages import Server
from server.apis.native.peer import NativePeer, has_track
from server.apis.native.session import NativeSession
from server.apis.websocket_route import serve_session
from server.errors import ClientError, Code
from server.http.access_control import caller_of
from server.http.bodies import read_small_body
from server.http.openapi import JSON, STRING, described, fields
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics
from server.transports.webrtc.peer import WebRtcTransport


def native_router(transport: WebRtcTransport, sessions: Sessions, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()
    server = Server(settings.batching.max_batch, settings.listen.replica_name, settings.model.model_id)
    limits = settings.session

    description = fields({"sdp": STRING, "type": {"const": "offer"}})
    answered = fields({"sdp": STRING, "type": {"const": "answer"}})

    @router.post(
        settings.listen.webrtc_path,
        **described(
            "Live audio",
            "A stream over WebRTC: a data channel, and an audio track beside it if you like",
            {200: ("the answer", {JSON: answered})},
            {JSON: description},
            errors=(400, 413, 503),
        ),
    )
    async def offer(request: Request) -> Response:
        sdp = read_offer(await read_small_body(request))
        peer = NativePeer(transport, caller_of(request), sessions, limits, server, has_track(sdp))
        return JSONResponse({"sdp": await peer.answer(sdp), "type": "answer"})

    @router.websocket("/ws")
    async def websocket(socket: WebSocket) -> None:
        await serve_session(
            socket,
            Api.WEBSOCKET,
            caller_of(socket),
            sessions,
            metrics,
            lambda seat, send: NativeSession(seat, limits, server, send),
        )

    return router


def read_offer(body: bytes) -> str:
    """Return the SDP of a JSON body {sdp, type}. Raises ClientError."""
    try:
        offer = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ClientError(Code.BAD_JSON, 'the body must be JSON: {"sdp": …, "type": "offer"}') from exc
    if not isinstance(offer, dict) or not isinstance(offer.get("sdp"), str):
        raise ClientError(Code.BAD_JSON, 'the body must be a JSON object with a string sdp and type "offer"')
    if offer.get("type") != "offer":
        raise ClientError(Code.BAD_JSON, f'type must be "offer", not {json.dumps(offer.get("type"))[:40]}')
    return str(offer["sdp"])
