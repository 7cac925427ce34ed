"""The message after the start: the addresses of the page, the API and the documentation, and how to stop the server."""

import http.client
import ssl
import sys
import threading
import time
import urllib.request
import webbrowser

from runtime.engine.manifest import in_checkout
from server.settings import API_TITLES, Listen, host_and_port

LOOK_SECONDS = 0.1  # time between two checks whether the server is ready
LOCAL_ADDRESSES = ("0.0.0.0", "::", "127.0.0.1", "::1")


def begin(listen: Listen, opens_browser: bool, is_shown: bool) -> None:
    """Start a thread that greets once the server is ready. The thread ends with the process."""
    threading.Thread(target=greet_when_ready, args=(listen, opens_browser, is_shown), name="greeting", daemon=True).start()


def greet_when_ready(listen: Listen, opens_browser: bool, is_shown: bool) -> None:
    address = address_of(listen)
    while not is_ready(address):
        time.sleep(LOOK_SECONDS)
    if is_shown:
        print(banner(listen, address), file=sys.stderr, flush=True)
    if opens_browser:
        webbrowser.open(address)


def address_of(listen: Listen) -> str:
    """Return the server's URL for a browser on this machine."""
    host = "localhost" if listen.host in LOCAL_ADDRESSES else listen.host
    return f"http{'s' if listen.has_tls else ''}://{host_and_port(host, listen.port)}"


def is_ready(address: str) -> bool:
    unchecked = ssl._create_unverified_context()  # the certificate names the server's public address, not this one
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked))
    try:
        direct.open(f"{address}/readyz", timeout=5).close()
    except (OSError, http.client.HTTPException):
        return False
    return True


def banner(listen: Listen, address: str) -> str:
    file = "samples/short.wav" if in_checkout() else "FILE"
    lines = {
        "page": address,
        "API": f"{address}/v1 ({API_TITLES}), {address.replace('http', 'ws', 1)}/ws; docs/interfaces.md lists all",
        "API reference": f"{address}/docs",
        "try it": f"curl{' --insecure' if listen.has_tls else ''} -F file=@{file} {address}/v1/audio/transcriptions",
        "stop": "Ctrl-C",
    }
    width = max(map(len, lines))
    return "\n".join(["", *(f"  {name:<{width}}  {value}" for name, value in lines.items()), ""])
