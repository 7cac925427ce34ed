"""The OpenAPI description of the server: /openapi.json, and /docs to try it out.

Routes read their requests themselves, so FastAPI knows no bodies and answers: described() adds them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import fastapi_swagger
import msgspec
from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi

PATH = "/openapi.json"
JSON, TEXT, SDP, EVENTS = "application/json", "text/plain", "application/sdp", "text/event-stream"
OBJECT, STRING, BINARY = {"type": "object"}, {"type": "string"}, {"type": "string", "format": "binary"}
ABOUT = """Real-time speech-to-text with Moonshine models.

Live audio comes by WebRTC, or by WebSockets, which this page cannot describe:

- `/ws`: the messages of the data channel
- `/v1/realtime`: OpenAI's Realtime API, transcription sessions
- `/v1/listen`: Deepgram's live transcription
- `/v2/listen`: Deepgram's Flux, with turns
- `/v1/telephone/jambonz`, `/v1/telephone/vapi`: calls of jambonz and Vapi
- `/v1/telephone/twilio`, or with a name for the words `/v1/telephone/twilio/NAME`: calls of Twilio
"""
NATIVE_ERROR = {
    "type": "object",
    "required": ["op", "reason", "message"],
    "properties": {"op": {"const": "error"}, "reason": STRING, "message": STRING},
}
OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": STRING, "type": STRING, "param": {"type": ["string", "null"]}, "code": STRING},
        }
    },
}
DEEPGRAM_ERROR = {
    "type": "object",
    "required": ["err_code", "err_msg", "request_id"],
    "properties": {"err_code": STRING, "err_msg": STRING, "request_id": STRING},
}
REASONS = {
    400: "the request is wrong",
    401: "the key is missing or wrong",
    403: "a page of another origin asks",
    404: "there is no such thing",
    408: "too slow",
    412: "another ICE session",
    413: "too large or too long",
    415: "another content type is wanted",
    422: "it cannot be done here",
    428: "If-Match is missing",
    429: "too often, or too many sessions",
    503: "no room, or the server is starting or stopping; Retry-After says when to come again",
}
KEYS = {
    "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    "security": [{"key": []}, {}],  # a server without keys asks for none
}
ACCESS_ERRORS = (401, 403, 429)  # of every path that checks access


def described(
    tag: str,
    summary: str,
    answers: Mapping[int, tuple[str, Mapping[str, Mapping[str, Any]]]],
    body: Mapping[str, Mapping[str, Any]] | None = None,
    query: Mapping[str, Mapping[str, Any]] | None = None,
    error: Mapping[str, Any] = NATIVE_ERROR,
    errors: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Return the arguments of a route. answers: a sentence and the contents by status. body, contents: a schema by media type."""
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": content(body)}
    if query:
        extra["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()]
    said = {status: {"description": sentence, "content": content(schemas)} for status, (sentence, schemas) in answers.items()}
    may_be = sorted({*errors, *(() if tag == "Health" else ACCESS_ERRORS)})
    refused = {status: {"description": REASONS[status], "content": content({JSON: error})} for status in may_be}
    return {
        "tags": [tag],
        "summary": summary,
        "openapi_extra": extra,
        "response_class": Response,
        "responses": {**said, **refused},
        "status_code": min(answers),
    }


def content(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {media_type: {"schema": schema} for media_type, schema in schemas.items()}


def fields(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def one_of(*values: str, default: str | None = None) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)} | ({} if default is None else {"default": default})


def install(app: FastAPI) -> None:
    """Serve the description, and Swagger UI from files of this machine.

    The description is encoded once: encoding takes milliseconds, and clients need no key for it.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = (
                without_validation(get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)) | KEYS
            )
        return app.openapi_schema

    @functools.cache
    def written() -> bytes:
        return msgspec.json.encode(openapi())

    @app.get(PATH, include_in_schema=False)
    async def describe() -> Response:
        return Response(written(), media_type="application/json")

    app.openapi_url = PATH  # where Swagger UI looks for it
    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the description
    fastapi_swagger.patch_fastapi(app, redirect_from_root_to_docs=False)


def without_validation(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove the 422 that FastAPI adds to any route with a parameter, with its own schema; no route here answers so."""
    for path in schema["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(answer):
                del operation["responses"]["422"]
    schema.pop("components", None)
    return schema
