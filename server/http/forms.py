"""Forms with a file."""

from typing import BinaryIO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import ClientError, Code

MAX_FIELDS, MAX_FIELD_BYTES = 1_000, 64 * 1024  # 200 keyterms are accepted; the error for more names their field
FORM = "multipart/form-data"
FILE = "file"


class FileFormParser(MultiPartParser):
    """Treats the part `file` as a file even if it has no file name. Starlette treats such a part as text."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == FILE.encode() and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename="file"'
        super().on_headers_finished()


async def read_form(request: Request) -> FormData:
    """Read a form with one file, in memory if it is small, else on disk. Raises ClientError, or OSError if the disk is full."""
    if not request.headers.get("content-type", "").lower().startswith(FORM):
        raise ClientError(Code.INVALID_VALUE, f"the body must be {FORM}")
    parser = FileFormParser(request.headers, request.stream(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    try:
        return await parser.parse()
    except MultiPartException as exc:
        raise ClientError(Code.INVALID_VALUE, f"the body is no form that can be read: {exc.message}") from exc


def file_of(form: FormData) -> BinaryIO:
    """Return the form's file. Raises ClientError if there is none."""
    file = form.get(FILE)
    if not isinstance(file, UploadFile):
        raise ClientError(Code.MISSING_PARAMETER, "the field file is missing: a recording", FILE)
    return file.file
