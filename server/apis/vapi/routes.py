"""Vapi connects here: the server address of a custom transcriber, with the API key of this server in a header."""

from fastapi import APIRouter, WebSocket

from server.apis.vapi.session import VapiSession
from server.apis.websocket_route import serve_session
from server.http.access_control import caller_of
from server.sessions.registry import Sessions
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics

PATH = "/v1/telephone/vapi"


def vapi_router(sessions: Sessions, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.websocket(PATH)
    async def call(socket: WebSocket) -> None:
        await serve_session(
            socket, Api.VAPI, caller_of(socket), sessions, metrics, lambda seat, send: VapiSession(seat, settings.session, send)
        )

    return router
