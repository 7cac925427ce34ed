"""Health: whether the engine is alive, whether sessions are accepted, and the metrics."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.errors import Code, Refused
from server.http.access_control import is_at
from server.http.openapi import JSON, OBJECT, STRING, TEXT, described
from server.sessions.registry import Sessions
from server.telemetry.metrics import Metrics


def health_router(sessions: Sessions, metrics: Metrics, replica: str, admin_port: int = 0) -> APIRouter:
    """Make the router. admin_port: the port where the metrics include the usage of each key; 0: none."""
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get(
        "/healthz", **described("Health", "Is the engine alive?", {200: ("yes", {JSON: OBJECT}), 503: ("no", {JSON: OBJECT})})
    )
    async def healthz() -> Response:
        return JSONResponse({"alive": sessions.alive}, status_code=200 if sessions.alive else 503)

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        **described("Health", "Are sessions taken?", {200: ("yes", {JSON: OBJECT}), 503: ("no, and why", {JSON: OBJECT})}),
    )
    async def readyz() -> Response:
        return answered(sessions, replica, sessions.refusal())

    @router.head("/acceptz", include_in_schema=False)
    @router.get(
        "/acceptz",
        **described(
            "Health",
            "As readyz, but a server that is only full says yes: balancers that try another one ask this",
            {200: ("yes", {JSON: OBJECT}), 503: ("no, and why", {JSON: OBJECT})},
        ),
    )
    async def acceptz() -> Response:
        refusal = sessions.refusal()
        return answered(sessions, replica, None if refusal and refusal.code is Code.SERVER_FULL else refusal)

    @router.get("/metrics", **described("Health", "Metrics for Prometheus", {200: ("metrics", {TEXT: STRING})}))
    async def render_metrics(request: Request) -> Response:
        return Response(
            metrics.render(with_usage=is_at(request.scope, admin_port)), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


def answered(sessions: Sessions, replica: str, refusal: Refused | None) -> Response:
    """Answer whether sessions are accepted, and how many there are. refusal: the reason if none is accepted."""
    counts = sessions.counts()
    told = {
        "ready": refusal is None,
        "sessions": counts.sessions,
        "max_sessions": counts.max_sessions,
        "draining": counts.is_draining,
        "replica": replica,
        "turn_detection": sessions.evidence_of_turns,
    }
    why = {"reason": refusal.code.value, "why": refusal.message} if refusal else {}
    return JSONResponse(told | why, status_code=503 if refusal else 200)
