"""Request bodies with size limits, and work that stops when the client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import Request
from starlette.types import Message, Receive

from server.errors import ClientError, Code

SMALL_BODY_BYTES = 64 * 1024
CLIENT_LEFT = 499  # nginx's status for logs; the client does not receive it

Answer = TypeVar("Answer")


async def read_small_body(request: Request, limit_bytes: int = SMALL_BODY_BYTES) -> bytes:
    """Read the body of an offer or of a JSON request into memory. Raises ClientError if it is larger."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise ClientError(Code.BODY_TOO_LARGE, f"the body may have {limit_bytes} bytes")
    return bytes(body)


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_announced(request: Request, limit_bytes: int) -> None:
    """Raises ClientError if the announced length of the request is larger."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise too_large(limit_bytes)


def counted(receive: Receive, limit_bytes: int) -> Receive:
    """Return a receive function that raises ClientError once the body has more bytes."""
    received = 0

    async def count() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            raise too_large(limit_bytes)
        return message

    return count


def too_large(limit_bytes: int) -> ClientError:
    return ClientError(Code.FILE_TOO_LARGE, f"a file may have {limit_bytes // 1_000_000} MB", "file")


async def while_connected(receive: Receive, work: Coroutine[None, None, Answer]) -> Answer | None:
    """Return the result of the work; None if the client has left, and the work is cancelled."""
    task, left = asyncio.create_task(work), asyncio.create_task(until_left(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        left.cancel()
        task.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
