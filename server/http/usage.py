"""Usage of each API key as JSON, for accounting."""

import hmac

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.errors import ClientError, Code
from server.http.openapi import JSON, OBJECT, described
from server.telemetry.metrics import Metrics

PATH = "/v1/usage"


def usage_router(metrics: Metrics, usage_key: str) -> APIRouter:
    """Make the router. usage_key: the key that opens the usage; empty: nobody may read it."""
    router = APIRouter()

    @router.get(
        PATH, **described("Health", "Audio and sessions of each API key since the server began", {200: ("usage", {JSON: OBJECT})})
    )
    async def usage(request: Request) -> Response:
        check_usage_key(str(request.scope.get("key", "")), usage_key)
        found = metrics.usage()
        keys = [{"key": name, "audio_seconds": round(each.audio_seconds, 3), "sessions": each.sessions} for name, each in found]
        return JSONResponse({"object": "list", "data": keys})

    return router


def check_usage_key(given: str, expected: str) -> None:
    """Raises ClientError if the key is another one, or nobody may read the usage."""
    if not expected:
        raise ClientError(Code.NOT_FOUND, "usage is reported where ASR_USAGE_KEY is set")
    if not hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode()):
        raise ClientError(Code.INVALID_KEY, "usage is reported to whoever has the key ASR_USAGE_KEY")
