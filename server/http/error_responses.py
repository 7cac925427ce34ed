"""Errors as HTTP answers, in the format of the server's own protocol."""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from server.errors import Code, Refused, ServerError
from server.http.bodies import CLIENT_LEFT

RETRY_AFTER_SECONDS, WARM_AFTER_SECONDS = 5, 2


def headers_of(error: ServerError) -> dict[str, str]:
    """Return the headers of an error's answer: Retry-After if trying again may help."""
    if not isinstance(error, Refused):
        return {}
    return {"Retry-After": str(WARM_AFTER_SECONDS if error.code is Code.WARMING_UP else RETRY_AFTER_SECONDS)}


async def answer_error(_: Request, error: Exception) -> Response:
    """Answer with an error that a route raised. FastAPI calls it."""
    assert isinstance(error, ServerError), "registered for this class alone"
    return error_response(error)


async def answer_nobody(_: Request, error: Exception) -> Response:
    """Answer a request whose client has left before all of it came."""
    return Response(status_code=CLIENT_LEFT)


def error_response(error: ServerError) -> Response:
    """Return the same JSON as on the data channel."""
    content = {"op": "error", "reason": error.code.value, "message": error.message}
    return JSONResponse(content, status_code=error.code.http_status, headers=headers_of(error))
