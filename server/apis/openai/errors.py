"""Errors in the shape of OpenAI's APIs."""

import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from server.apis.openai import transcription
from server.errors import Code, Refused, ServerError
from server.http.error_responses import headers_of


def refuse(error: ServerError) -> Response:
    """Answer with an error in OpenAI's shape. A header keeps the SDK from sending a file again that made the engine fail."""
    fails_again = error.code in (Code.ENGINE_FAILED, Code.INTERNAL_ERROR) and not isinstance(error, Refused)
    headers = {"x-should-retry": "false"} if fails_again else headers_of(error)
    return JSONResponse(transcription.error_body(error), status_code=error.code.http_status, headers=headers)


class OpenAIRoute(APIRoute):
    """Answers with errors in OpenAI's shape, and gives each request an id."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except ServerError as error:
                response = refuse(error)
            response.headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
            return response

        return answer
