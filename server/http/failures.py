"""Errors as HTTP answers."""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from server.errors import Refused, ServerError

RETRY_AFTER_SECONDS = 5


async def answer_error(_: Request, error: Exception) -> Response:
    """What FastAPI calls."""
    assert isinstance(error, ServerError), "registered for this class alone"
    return error_response(error)


def error_response(error: ServerError) -> Response:
    """The same JSON as on the data channel."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if isinstance(error, Refused) else None
    content = {"op": "error", "reason": error.code.value, "message": error.message}
    return JSONResponse(content, status_code=error.code.http_status, headers=headers)
