"""The default address of the server."""

import os
from collections.abc import Mapping

ANY_ADDRESS = ("", "0.0.0.0", "::")  # a server that listens on all of its addresses is also at 127.0.0.1


def default_server(environment: Mapping[str, str] = os.environ) -> str:
    """Return HOST:PORT, from ASR_SERVER, else from ASR_HOST and ASR_PORT, which the server reads."""
    if named := environment.get("ASR_SERVER"):
        return named
    host, port = environment.get("ASR_HOST", ""), environment.get("ASR_PORT") or "8000"
    host = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
