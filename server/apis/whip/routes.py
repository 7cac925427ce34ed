"""WHIP (RFC 9725) over HTTP: the offer, and the session's address."""

from fastapi import APIRouter, Request, Response

from server.apis.broadcast.broadcasts import Broadcasts
from server.apis.broadcast.routes import channel_words_router, session_words_router
from server.apis.session_names import no_session
from server.apis.whip.sender import Senders, WhipPeer
from server.errors import ClientError, Code
from server.http.access_control import caller_of
from server.http.bodies import content_type, read_small_body
from server.http.error_responses import error_response
from server.http.openapi import SDP, STRING, described
from server.settings import IceServer

TRICKLE = "application/trickle-ice-sdpfrag"
EVENTS_RELATION = "urn:ietf:params:whip:ext:core:server-sent-events"


def whip_router(senders: Senders, ice_servers: tuple[IceServer, ...]) -> APIRouter:
    router = APIRouter()
    links = [f'<{server.url}>; rel="ice-server"' for server in ice_servers if server.username is None]
    """Servers with a password are this server's own. Unknown senders must not get the password."""

    offering = described(
        "WHIP",
        "Send an audio track; Location is the session's address",
        {201: ("the answer", {SDP: STRING})},
        {SDP: STRING},
        errors=(400, 413, 415, 503),
    )

    @router.post("/whip", **offering)
    @router.post("/whip/{channel}", **offering)
    async def offer(request: Request, channel: str = "") -> Response:
        if content_type(request) != SDP:
            return refused(415, Code.BAD_OFFER, f"the body must be {SDP}")
        peer, answer = await senders.open((await read_small_body(request)).decode(errors="replace"), channel, caller_of(request))
        address = f"/whip/session/{peer.name}"
        response = Response(answer, 201, {"Location": address, "ETag": peer.entity_tag, "Accept-Patch": TRICKLE}, SDP)
        for link in [f'<{address}/events>; rel="{EVENTS_RELATION}"', *links]:
            response.headers.append("Link", link)
        return response

    @router.options("/whip", include_in_schema=False)
    @router.options("/whip/{channel}", include_in_schema=False)
    async def options(channel: str = "") -> Response:
        return Response(status_code=204, headers={"Accept-Post": SDP})

    @router.patch(
        "/whip/session/{name}",
        **described(
            "WHIP", "Add ICE candidates", {204: ("they are added", {})}, {TRICKLE: STRING}, errors=(400, 404, 412, 415, 422, 428)
        ),
    )
    async def patch(request: Request, name: str) -> Response:
        peer = find_live(senders, name)
        fragment = (await read_small_body(request)).decode(errors="replace")
        if refusal := refusal_of(request, peer, fragment):
            return refusal
        await peer.add_candidates(fragment)
        return Response(status_code=204)

    @router.delete("/whip/session/{name}", **described("WHIP", "End the session", {200: ("it ends", {})}, errors=(404,)))
    async def delete(name: str) -> Response:
        find_live(senders, name).end()
        return Response(status_code=200)

    return router


def whip_words_routers(broadcasts: Broadcasts) -> list[APIRouter]:
    return [session_words_router(broadcasts, "/whip/session"), channel_words_router(broadcasts, "/whip")]


def find_live(senders: Senders, name: str) -> WhipPeer:
    """Return a sender that has not left. Raises ClientError."""
    if peer := senders.find_live(name):
        return peer
    raise no_session()


def refusal_of(request: Request, peer: WhipPeer, fragment: str) -> Response | None:
    """Check the conditions of a PATCH (RFC 9725, 4.3)."""
    tag = request.headers.get("if-match")
    if content_type(request) != TRICKLE:
        return refused(415, Code.BAD_OFFER, f"the body must be {TRICKLE}")
    if tag is None:
        return refused(428, Code.BAD_OFFER, "the header If-Match is missing")
    if tag == "*":
        return refused(422, Code.BAD_OFFER, "ICE cannot be restarted here; the session goes on as it is")
    if tag != peer.entity_tag:
        return refused(412, Code.BAD_OFFER, "If-Match names another ICE session")
    if "a=ice-ufrag:" not in fragment:
        return refused(400, Code.BAD_OFFER, "the fragment has no a=ice-ufrag")
    return None


def refused(status: int, code: Code, message: str) -> Response:
    response = error_response(ClientError(code, message))
    response.status_code = status
    return response
