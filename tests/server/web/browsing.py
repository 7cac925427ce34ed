"""Helpers for tests of the page: paths of the recordings, waiting, and reading the page."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.harness.accuracy import word_error_rate
from tests.conftest import PROJECT, RunningServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MID, SHORT = PROJECT / "samples" / "mid.wav", PROJECT / "samples" / "short.wav"
WITHOUT_WEBRTC = "delete globalThis.RTCPeerConnection"
SAMPLE_END = "we had nothing before us"
MOST_ERRORS_PERCENT = 12


def address_of(server: RunningServer, path: str = "/", host: str = "localhost") -> str:
    return f"http://{host}:{server.address.split(':')[1]}{path}"


def wait_for(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)  # the page's policy allows no script that would wait within it


def text_of(path: Path) -> str:
    return path.with_suffix(".txt").read_text().strip()


def sample_text() -> str:
    found, end, _ = text_of(MID).partition(SAMPLE_END)
    return found + end


def is_right(expected: str, found: str) -> bool:
    return word_error_rate([expected], [found]) <= MOST_ERRORS_PERCENT


def status(page: Page) -> str:
    return page.inner_text("#status")


def words(page: Page, block: int = -1) -> str:
    """The words of a block, without its name and times."""
    blocks = page.query_selector_all(".block")
    return "".join(span.inner_text() for span in blocks[block].query_selector_all("p > span")) if blocks else ""


def stable_words(page: Page) -> str:
    return "".join(span.text_content() or "" for span in page.query_selector_all(".block p > span:not(.moving)"))


def wait_for_status(page: Page, beginning: str, seconds: float = 40.0) -> None:
    wait_for(lambda: status(page).startswith(beginning), seconds)
