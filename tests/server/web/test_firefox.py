"""The page in Firefox: sample, microphone, files, downloads, a lost server, the developers' panel, captions, the dark scheme."""

import asyncio
import io
from pathlib import Path

import pytest
import srt
from PIL import Image

from tests.server.web.browsing import MID, SHORT, address_of, is_right, sample_text, text_of
from tests.server.web.firefox import DOWNLOADS, FIREFOX, Firefox, firefox

pytestmark = [pytest.mark.slow, pytest.mark.skipif(FIREFOX is None, reason="no firefox is installed")]
STATUS = "document.querySelector('#status').textContent"
WORDS = "[...document.querySelectorAll('.block:last-child p > span')].map((span) => span.textContent).join('')"


def test_the_page_works_in_firefox(served, tmp_path):
    async def run() -> None:
        async with firefox(tmp_path, address_of(served)) as tab:
            await play_the_sample(tab)
            await speak(tab)
            await transcribe_two_files(tab)
            await download(tab, tmp_path / DOWNLOADS)
            await call_an_api(tab)
            await show_captions(tab)
            assert tab.errors == []

    asyncio.run(run())


def test_a_lost_server_is_found_again_in_firefox(start_server, tmp_path):
    server = start_server()

    async def run() -> None:
        async with firefox(tmp_path, address_of(server)) as tab:
            await tab.click("#sample")
            await tab.until(f"{WORDS}.length > 20")
            server.process.kill()
            server.process.wait()
            await tab.until(f"{STATUS}.startsWith('Reconnecting')")
            await asyncio.to_thread(start_server, ASR_PORT=server.address.split(":")[1])
            await tab.until(f"{STATUS} === 'Stopped'")
            assert is_right(sample_text(), await tab.evaluate(WORDS))

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


async def transcribe_two_files(tab: Firefox) -> None:
    await tab.click("#clear")
    await tab.choose_files("#file", MID, SHORT)
    await tab.until(f"{STATUS} === 'short.wav is transcribed'")
    assert is_right(text_of(SHORT), await tab.evaluate(WORDS))
    assert (
        await tab.evaluate("[...document.querySelectorAll('.block h2')].map((name) => name.textContent).join()")
        == "mid.wav,short.wav"
    )


async def download(tab: Firefox, folder: Path) -> None:
    await tab.evaluate("document.querySelector('#format').value = 'srt'")
    await tab.click("#download")
    async with asyncio.timeout(30):
        while not (found := [path for path in folder.glob("*.srt") if path.stat().st_size]):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.1)
    cues = list(srt.parse(found[0].read_text(), ignore_errors=False))
    assert is_right(f"{text_of(MID)} {text_of(SHORT)}", " ".join(cue.content for cue in cues))


async def call_an_api(tab: Firefox) -> None:
    await tab.click("#show-developers")
    await tab.until("document.querySelector('#snippet')?.textContent.includes('StreamingClient')")
    await tab.evaluate(
        "(api => { api.value = 'deepgram'; api.dispatchEvent(new Event('change')); })(document.querySelector('#api'))"
    )
    await tab.click("#sample")
    await tab.until("document.querySelector('#events').textContent.includes('best of times')")
    await tab.click("#microphone")
    await tab.until(f"{STATUS} === 'Stopped'")
    await tab.click("#show-developers")


async def show_captions(tab: Firefox) -> None:
    await tab.click("#show-captions")
    assert "captions=1" in await tab.evaluate("location.href")
    assert not await tab.evaluate("document.querySelector('header').checkVisibility()")


def is_dark(screenshot: bytes) -> bool:
    """True if at most 2% of the picture is light: the words."""
    grey = Image.open(io.BytesIO(screenshot)).convert("L").tobytes()
    return sum(level > 200 for level in grey) < len(grey) / 50
