"""Is the server alive, does it take sessions, and what does it count?"""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from server.http.openapi import JSON, OBJECT, STRING, TEXT, described
from server.sessions import Sessions
from server.telemetry.metrics import Metrics


def health_router(sessions: Sessions, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get(
        "/healthz", **described("Health", "Is the engine alive?", {200: ("yes", {JSON: OBJECT}), 503: ("no", {JSON: OBJECT})})
    )
    async def healthz() -> Response:
        return JSONResponse({"alive": sessions.alive}, status_code=200 if sessions.alive else 503)

    @router.get(
        "/readyz",
        **described("Health", "Are sessions taken?", {200: ("yes", {JSON: OBJECT}), 503: ("no, and why", {JSON: OBJECT})}),
    )
    async def readyz() -> Response:
        refusal = sessions.refusal()
        why = {"reason": refusal.code.value, "why": refusal.message} if refusal else {}
        status = 503 if refusal else 200
        return JSONResponse({"ready": refusal is None, "sessions": len(sessions)} | why, status_code=status)

    @router.get("/metrics", **described("Health", "Metrics for Prometheus", {200: ("metrics", {TEXT: STRING})}))
    async def render_metrics() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
