"""jambonz connects here: a custom speech vendor's STT address, with the API key of this server."""

from fastapi import APIRouter, WebSocket

from server.apis.jambonz.session import JambonzSession
from server.apis.websocket_route import serve_session
from server.http.access_control import caller_of
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics

PATH = "/v1/telephone/jambonz"


def jambonz_router(sessions: Sessions, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.websocket(PATH)
    async def call(socket: WebSocket) -> None:
        await serve_session(
            socket,
            Api.JAMBONZ,
            caller_of(socket),
            sessions,
            metrics,
            lambda seat, send: JambonzSession(seat, settings.session, settings.model.model_id, send),
        )

    return router
