"""Forms with a file."""

from typing import BinaryIO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import ClientError, Code

MAX_FIELDS, MAX_FIELD_BYTES = 1_000, 64 * 1024  # 200 keyterms are taken, and more are refused by their name
FORM = "multipart/form-data"
FILE = "file"


class FileFormParser(MultiPartParser):
    """Takes the part `file` for a file, also where its sender gave it no file name: Starlette takes such a part for text."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == FILE.encode() and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename="file"'
        super().on_headers_finished()


async def read_form(request: Request) -> FormData:
    """A form with one file, in memory where it is small and else on disk. Raises ClientError, or OSError for a full disk."""
    if not request.headers.get("content-type", "").lower().startswith(FORM):
        raise ClientError(Code.INVALID_VALUE, f"the body must be {FORM}")
    parser = FileFormParser(request.headers, request.stream(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    try:
        return await parser.parse()
    except MultiPartException as exc:
        raise ClientError(Code.INVALID_VALUE, f"the body is no form that can be read: {exc.message}") from exc


def file_of(form: FormData) -> BinaryIO:
    """Raises ClientError where there is none."""
    file = form.get(FILE)
    if not isinstance(file, UploadFile):
        raise ClientError(Code.MISSING_PARAMETER, "the field file is missing: a recording", FILE)
    return file.file
