"""Which version of the project this is."""

import importlib.metadata

NOT_INSTALLED = "0"  # the project runs from a checkout


def version() -> str:
    try:
        return importlib.metadata.version("moonshine-asr")
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
