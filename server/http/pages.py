"""The page at / and the JavaScript client: files of server/web/ only."""

from collections.abc import Callable, Coroutine
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, PlainTextResponse

WEB = Path(__file__).resolve().parent.parent / "web"
CONTENT_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".flac": "audio/flac",
}
GUIDE = WEB / "llms.txt"
ADDRESS_IN_GUIDE = "http://localhost:8000"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # an upgraded server must not be used with an old page
}


def pages_router() -> APIRouter:
    router = APIRouter()
    for path in sorted(path for path in WEB.iterdir() if path.suffix in CONTENT_TYPES):
        router.add_api_route(
            "/" if path.name == "index.html" else f"/web/{path.name}",
            serving(path),
            methods=["GET", "HEAD"],
            include_in_schema=False,
        )

    @router.api_route("/llms.txt", methods=["GET", "HEAD"], include_in_schema=False)
    async def guide(request: Request) -> PlainTextResponse:
        """Return the guide for programmers and their tools, with the address that the client used for this server."""
        address = str(request.base_url).rstrip("/")
        return PlainTextResponse(GUIDE.read_text().replace(ADDRESS_IN_GUIDE, address), headers=HEADERS)

    return router


def serving(path: Path) -> Callable[[], Coroutine[None, None, FileResponse]]:
    async def serve() -> FileResponse:
        return FileResponse(path, media_type=CONTENT_TYPES[path.suffix], headers=HEADERS)

    return serve
