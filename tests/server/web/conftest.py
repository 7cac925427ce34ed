"""A server, and Chromium with a microphone that plays a recording."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import RunningServer
from tests.server.web.browsing import CHROMIUM, SHORT, address_of

INSECURE_HOST = "asr.example"
"""A host of this machine to which the browser speaks plain http, as to any other machine."""
OF_THE_NETWORK = ("Failed to load resource", "WebSocket connection to")
"""Beginnings of errors that Chromium itself reports of refused requests. They are no fault of the page."""


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="3", ASR_ALLOWED_HOSTS=INSECURE_HOST)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={SHORT}%noloop",
        f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1",
    ]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """Opens pages of servers. The test that leaves an error in a browser's console fails."""
    contexts, troubles = [], []

    def open_one(server: RunningServer, path: str = "/", host: str = "localhost", **options: Any) -> Page:
        context = browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"], **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(address_of(server, path, host))
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [trouble for trouble in troubles if not trouble.startswith(OF_THE_NETWORK)] == []


@pytest.fixture
def page(served, open_page) -> Page:
    return open_page(served)
