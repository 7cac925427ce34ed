"""The HTTP side: offers, health and metrics."""

import contextlib
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from server.sessions import Hub, Refused
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.transports.webrtc import BadOffer, WebRtcTransport

MAX_OFFER_BYTES = 64 * 1024
RETRY_AFTER_SECONDS = 5


class BadBody(Exception):
    """The request's body cannot be used."""

    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


def create_app(hub: Hub, metrics: Metrics, settings: Settings) -> FastAPI:
    transport = WebRtcTransport(hub, metrics, settings.ice_servers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await hub.start(settings.warmup_seconds)
        yield
        await hub.shut_down(settings.shutdown_timeout_seconds)
        await transport.close()

    app = FastAPI(title="moonshine-asr", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.post(settings.webrtc_path)
    async def offer(request: Request) -> Response:
        try:
            sdp = read_offer(await read_body(request))
            answer = await transport.answer(sdp)
        except BadBody as exc:
            return error(exc.status, exc.reason, exc.message)
        except BadOffer as exc:
            return error(400, "bad_offer", str(exc))
        except Refused as exc:
            return error(503, exc.reason.value, exc.message, {"Retry-After": str(RETRY_AFTER_SECONDS)})
        return JSONResponse({"sdp": answer.sdp, "type": answer.type})

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"alive": hub.alive}, status_code=200 if hub.alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        refusal = hub.refusal()
        why = {"reason": refusal.reason.value, "why": refusal.message} if refusal else {}
        return JSONResponse({"ready": refusal is None, "sessions": hub.sessions} | why, status_code=503 if refusal else 200)

    @app.get("/metrics")
    async def render_metrics() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def read_body(request: Request) -> bytes:
    """The body, as long as it is small. Raises BadBody."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_OFFER_BYTES:
            raise BadBody(413, "body_too_large", f"an offer may have {MAX_OFFER_BYTES} bytes")
    return bytes(body)


def read_offer(body: bytes) -> str:
    """The SDP of a JSON body {sdp, type}. Raises BadBody."""
    try:
        offer = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadBody(400, "bad_json", 'the body must be JSON: {"sdp": …, "type": "offer"}') from exc
    if not isinstance(offer, dict) or not isinstance(offer.get("sdp"), str):
        raise BadBody(400, "bad_json", 'the body must be a JSON object with a string sdp and type "offer"')
    if offer.get("type") != "offer":
        raise BadBody(400, "bad_json", f'type must be "offer", not {json.dumps(offer.get("type"))[:40]}')
    return offer["sdp"]


def error(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"op": "error", "reason": reason, "message": message}, status_code=status, headers=headers)
