"""Tokens for browsers, which must not be given a key."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.access import TOKEN_SECONDS, Tokens
from server.http.access_control import TOKENS_PATH, caller_of
from server.http.openapi import JSON, STRING, described, fields


def tokens_router(tokens: Tokens) -> APIRouter:
    router = APIRouter()

    token = fields({"token": STRING, "expires_at": {"type": "integer"}})

    @router.post(
        TOKENS_PATH,
        **described(
            "Access",
            f"A token that lets a browser in once, within {TOKEN_SECONDS} s",
            {200: ("the token", {JSON: token})},
        ),
    )
    async def issue(request: Request) -> Response:
        """Issue a token. It is accepted like a key, also as ?token= in the address of a WebSocket."""
        issued = tokens.issue(caller_of(request))
        return JSONResponse({"token": issued.value, "expires_at": issued.expires_at}, headers={"Cache-Control": "no-store"})

    return router
