"""The project's version."""

import importlib.metadata

DISTRIBUTION = "moonshine-asr"
NOT_INSTALLED = "0"  # the project runs from a checkout


def version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
