"""Twilio connects here: the `url` of a `<Stream>`. It can set no header, so its key is a custom parameter."""

from fastapi import APIRouter, WebSocket

from server.apis.broadcast.broadcasts import Broadcasts, new_session_id
from server.apis.twilio.session import TwilioSession
from server.apis.websocket_route import Send, serve_session
from server.http.access_control import ApiAccess, caller_of, identify
from server.http.error_responses import error_response
from server.sessions.registry import Sessions
from server.sessions.seat import Seat
from server.settings import Settings
from server.telemetry.metrics import Api, Metrics

PATH = "/v1/telephone/twilio"
ACCESS = ApiAccess(prefix=PATH, refuse=error_response, names_key_later=True)


def twilio_router(sessions: Sessions, broadcasts: Broadcasts, settings: Settings, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.websocket(PATH)
    @router.websocket(PATH + "/{channel}")
    async def call(socket: WebSocket, channel: str = "") -> None:
        def begin(seat: Seat, _: Send) -> None:
            def publish(name: str) -> None:
                broadcasts.publish(broadcasts.begin(Api.TWILIO, seat.session_id, name, session))

            session = TwilioSession(seat, settings.session, channel, lambda key: seat.identify(identify(socket, key)), publish)

        await serve_session(socket, Api.TWILIO, caller_of(socket), sessions, metrics, begin, new_session_id(Api.TWILIO))

    return router
