"""Errors as HTTP answers, in the shape of each dialect."""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from server.apis.deepgram import messages as deepgram
from server.apis.openai import transcription as openai
from server.errors import Code, Refused, ServerError

CLIENT_LEFT = 499  # nobody reads it; nginx's number, for logs
RETRY_AFTER_SECONDS, WARM_AFTER_SECONDS = 5, 2
DEEPGRAM_PATH, OPENAI_PREFIX = "/v1/listen", "/v1/"


def headers_of(error: ServerError) -> dict[str, str]:
    """When to come again, where that may help."""
    if not isinstance(error, Refused):
        return {}
    return {"Retry-After": str(WARM_AFTER_SECONDS if error.code is Code.WARMING_UP else RETRY_AFTER_SECONDS)}


async def answer_error(_: Request, error: Exception) -> Response:
    """What FastAPI calls."""
    assert isinstance(error, ServerError), "registered for this class alone"
    return error_response(error)


async def answer_nobody(_: Request, error: Exception) -> Response:
    """The client has left while its request came."""
    return Response(status_code=CLIENT_LEFT)


def error_response(error: ServerError) -> Response:
    """The same JSON as on the data channel."""
    content = {"op": "error", "reason": error.code.value, "message": error.message}
    return JSONResponse(content, status_code=error.code.http_status, headers=headers_of(error))


def refusal_of(path: str, error: ServerError) -> Response:
    """As the dialect that is spoken at the path says it."""
    if path == DEEPGRAM_PATH:
        return refuse_deepgram(error)
    return refuse(error) if path.startswith(OPENAI_PREFIX) else error_response(error)


def refuse_deepgram(error: ServerError) -> Response:
    """In Deepgram's shape."""
    return JSONResponse(deepgram.error_body(error), status_code=error.code.http_status, headers=headers_of(error))


def refuse(error: ServerError) -> Response:
    """In OpenAI's shape. A file that the engine failed on would fail again: the SDK would send it twice more."""
    fails_again = error.code in (Code.ENGINE_FAILED, Code.INTERNAL_ERROR) and not isinstance(error, Refused)
    headers = {"x-should-retry": "false"} if fails_again else headers_of(error)
    return JSONResponse(openai.error_body(error), status_code=error.code.http_status, headers=headers)
