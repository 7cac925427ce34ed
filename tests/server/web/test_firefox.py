"""The page in Firefox: sample, microphone, files, captions, the dark scheme."""

import asyncio
import io

import pytest
from PIL import Image

from tests.server.web.browsing import SHORT, address_of, is_right, sample_text, text_of
from tests.server.web.firefox import FIREFOX, Firefox, firefox

pytestmark = [pytest.mark.slow, pytest.mark.skipif(FIREFOX is None, reason="no firefox is installed")]
STATUS = "document.querySelector('#status').textContent"
WORDS = "[...document.querySelectorAll('.block:last-child p > span')].map((span) => span.textContent).join('')"


def test_the_page_works_in_firefox(served, tmp_path):
    async def run() -> None:
        async with firefox(tmp_path, address_of(served)) as tab:
            await play_the_sample(tab)
            await speak(tab)
            await transcribe_a_file(tab)
            await show_captions(tab)
            assert tab.errors == []

    asyncio.run(run())


async def play_the_sample(tab: Firefox) -> None:
    await tab.click("#sample")
    await tab.until(f"{STATUS}.startsWith('Listening')")
    await tab.until(f"{STATUS} === 'Stopped'")
    assert is_right(sample_text(), await tab.evaluate(WORDS))


async def speak(tab: Firefox) -> None:
    """The microphone of the test hums, which gives no words."""
    await tab.click("#microphone")
    await tab.until("document.querySelector('#level').value > -50")
    assert is_dark(await tab.screenshot()), "Firefox draws meters and scroll bars in light colours of its own"
    await tab.click("#microphone")
    await tab.until(f"{STATUS} === 'Stopped'")


async def transcribe_a_file(tab: Firefox) -> None:
    await tab.choose_files("#file", SHORT)
    await tab.until(f"{STATUS} === 'short.wav is transcribed'")
    assert is_right(text_of(SHORT), await tab.evaluate(WORDS))


async def show_captions(tab: Firefox) -> None:
    await tab.click("#show-captions")
    assert "captions=1" in await tab.evaluate("location.href")
    assert not await tab.evaluate("document.querySelector('header').checkVisibility()")


def is_dark(screenshot: bytes) -> bool:
    """True if at most 2% of the picture is light: the words."""
    grey = Image.open(io.BytesIO(screenshot)).convert("L").tobytes()
    return sum(level > 200 for level in grey) < len(grey) / 50
