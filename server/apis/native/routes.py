"""The WebRTC offer over HTTP."""

import json

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.errors import ClientError, Code
from server.http.access_control import caller_of
from server.http.openapi import JSON, STRING, described, fields
from server.transports.webrtc.peer import WebRtcTransport

MAX_OFFER_BYTES = 64 * 1024


def offers_router(transport: WebRtcTransport, path: str) -> APIRouter:
    router = APIRouter()

    description = fields({"sdp": STRING, "type": {"const": "offer"}})
    answered = fields({"sdp": STRING, "type": {"const": "answer"}})

    @router.post(path, **described(
        "Live audio", "A stream over WebRTC: a data channel, and an audio track beside it if you like",
        {200: ("the answer", {JSON: answered})}, {JSON: description}, errors=(400, 413, 503),
    ))  # fmt: skip
    async def offer(request: Request) -> Response:
        answer = await transport.answer(read_offer(await read_body(request)), caller_of(request))
        return JSONResponse({"sdp": answer, "type": "answer"})

    return router


async def read_body(request: Request) -> bytes:
    """The body, as long as it is small. Raises ClientError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_OFFER_BYTES:
            raise ClientError(Code.BODY_TOO_LARGE, f"an offer may have {MAX_OFFER_BYTES} bytes")
    return bytes(body)


def read_offer(body: bytes) -> str:
    """The SDP of a JSON body {sdp, type}. Raises ClientError."""
    try:
        offer = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ClientError(Code.BAD_JSON, 'the body must be JSON: {"sdp": …, "type": "offer"}') from exc
    if not isinstance(offer, dict) or not isinstance(offer.get("sdp"), str):
        raise ClientError(Code.BAD_JSON, 'the body must be a JSON object with a string sdp and type "offer"')
    if offer.get("type") != "offer":
        raise ClientError(Code.BAD_JSON, f'type must be "offer", not {json.dumps(offer.get("type"))[:40]}')
    return str(offer["sdp"])
