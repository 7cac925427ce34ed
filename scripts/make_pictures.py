"""Records the pictures of the page in docs/pictures/ from real sessions: python scripts/make_pictures.py [--server HOST:PORT]

Needs a running server, Chromium and Playwright. words-arriving.webp shows words at the speed at which they came.
"""

import argparse
import io
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

PROJECT = Path(__file__).resolve().parent.parent
PICTURES = PROJECT / "docs" / "pictures"
SECONDS = 10.0
DESKTOP, PHONE, MOVING = {"width": 1200, "height": 760}, {"width": 390, "height": 760}, {"width": 880, "height": 470}
QUALITY = 60  # of WebP; letters stay sharp
FRAME_SECONDS = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="localhost:8000", metavar="HOST:PORT")
    parser.add_argument("--out", type=Path, default=PICTURES, help="directory to write to")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the moving picture")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        record(browser, options)
        for picture in (first_screen, phone, developers, captions):
            picture(browser, options)
        browser.close()
    return 0


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no chromium is installed"
    return found


def opened(browser: Browser, options: argparse.Namespace, path: str = "/", **context: object) -> Page:
    page = browser.new_context(bypass_csp=True, **context).new_page()  # type: ignore[arg-type]
    page.goto(f"http://{options.server}{path}")
    page.wait_for_function("document.querySelector('#places').textContent !== ''")
    return page


def play(page: Page, words: int) -> None:
    """Play the sample until this many words are on the page."""
    page.click("#sample")
    while page.locator(".block p > span").count() < words:
        page.wait_for_timeout(50)


def record(browser: Browser, options: argparse.Namespace) -> None:
    page = opened(browser, options, viewport=MOVING)
    page.click("#sample")
    frames = list(frames_of(page, options.seconds))
    page.context.close()
    ends = [at for at, _ in frames[1:]] + [options.seconds]
    durations = [max(1, round(1000 * (end - at))) for (at, _), end in zip(frames, ends, strict=True)]
    images = [Image.open(io.BytesIO(png)).convert("RGB") for _, png in frames]
    path = options.out / "words-arriving.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=QUALITY, method=6)


def frames_of(page: Page, seconds: float) -> Iterator[tuple[float, bytes]]:
    """Yield the time of each frame, in seconds, and the frame as PNG. Frames equal to the one before are left out."""
    began, before = time.monotonic(), b""
    while (at := time.monotonic() - began) < seconds:
        png = page.screenshot()
        if png != before:
            yield at, png
        before = png
        page.wait_for_timeout(max(0.0, 1000 * (FRAME_SECONDS - (time.monotonic() - began - at))))


def first_screen(browser: Browser, options: argparse.Namespace) -> None:
    page = opened(browser, options, viewport=DESKTOP)
    page.screenshot(path=options.out / "first-screen.png")
    page.context.close()


def phone(browser: Browser, options: argparse.Namespace) -> None:
    page = opened(browser, options, viewport=PHONE, color_scheme="dark", has_touch=True)
    play(page, words=20)
    page.screenshot(path=options.out / "phone.png")
    page.context.close()


def developers(browser: Browser, options: argparse.Namespace) -> None:
    page = opened(browser, options, "/#developers", viewport=DESKTOP)
    page.select_option("#api", "deepgram")
    page.click("#sample")
    page.wait_for_function("document.querySelector('#events').textContent.length > 2000")
    page.screenshot(path=options.out / "developers.png")
    page.context.close()


def captions(browser: Browser, options: argparse.Namespace) -> None:
    page = opened(browser, options, viewport={"width": 960, "height": 300})
    play(page, words=24)
    page.click("#show-captions")
    page.mouse.move(-1, -1)
    page.wait_for_timeout(400)  # wait until the controls have faded
    page.screenshot(path=options.out / "captions.png")
    page.context.close()


if __name__ == "__main__":
    sys.exit(main())
