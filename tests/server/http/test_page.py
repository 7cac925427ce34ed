"""The page, in a real browser with a microphone that plays a recording."""

import base64
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import imageio_ffmpeg
import pytest
import srt
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.harness.accuracy import word_error_rate
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE
from tests.conftest import PROJECT, RunningServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MID, SHORT = PROJECT / "samples" / "mid.wav", PROJECT / "samples" / "short.wav"
WITHOUT_WEBRTC = "delete globalThis.RTCPeerConnection"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_MAX_SESSIONS="2", ASR_TARGET="onnxruntime")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    speaking = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={SHORT}%noloop",
    ]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=speaking)
        yield found
        found.close()


@pytest.fixture
def page(served, browser) -> Iterator[Page]:
    """Fails the test that leaves an error in the browser's console."""
    context = browser.new_context(permissions=["microphone"])
    page, troubles = context.new_page(), []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(f"http://localhost:{served.address.split(':')[1]}/")
    yield page
    context.close()
    assert troubles == []


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)  # the page's policy allows no script that would wait within it


def text_of(path: Path) -> str:
    return path.with_suffix(".txt").read_text().strip()


@pytest.mark.parametrize(("without", "via"), [("", "WebRTC"), (WITHOUT_WEBRTC, "a WebSocket")])
def test_words_of_the_microphone_appear_and_are_right(page, without, via):
    if without:
        page.evaluate(without)
    page.click("#microphone")
    wait_for(lambda: len(page.inner_text("#words")) > 3)
    assert page.inner_text("#status") == f"Listening, over {via}."
    wait_for(lambda: "better" in page.inner_text("#words"))
    page.click("#microphone")
    wait_for(lambda: page.inner_text("#status") == "Stopped.")
    assert word_error_rate([text_of(SHORT)], [page.inner_text("#stable")]) <= 10
    assert page.inner_text("#moving") == "" and page.get_attribute("#microphone", "aria-pressed") == "false"


def test_a_file_is_transcribed_and_can_be_had_as_subtitles(page):
    page.set_input_files("#file", MID)
    wait_for(lambda: page.inner_text("#status") == "mid.wav is transcribed.", seconds=60)
    assert word_error_rate([text_of(MID)], [page.inner_text("#stable")]) <= 10
    with page.expect_download() as downloaded:
        page.select_option("#download", "srt")
    cues = list(srt.parse(Path(downloaded.value.path()).read_text(), ignore_errors=False))
    assert len(cues) > 5 and word_error_rate([text_of(MID)], [" ".join(cue.content for cue in cues)]) <= 10
    page.click("#clear")
    assert page.inner_text("#words") == ""


def test_what_is_wrong_with_a_file_is_said(page):
    page.set_input_files("#file", PROJECT / "README.md")
    wait_for(lambda: page.is_visible("#trouble"))
    assert "could not be decoded" in page.inner_text("#trouble")
    page.evaluate("console.clear()")


def test_a_server_that_goes_away_and_comes_back_is_found_again_and_the_text_stays(browser, start_server):
    server = start_server(ASR_TARGET="onnxruntime")
    port = server.address.split(":")[1]
    page = browser.new_context(permissions=["microphone"]).new_page()
    page.goto(f"http://localhost:{port}/")
    page.click("#microphone")
    wait_for(lambda: len(page.inner_text("#stable")) > 10)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: page.is_visible("#trouble"), seconds=60)
    before = page.inner_text("#stable")
    assert "kept" in page.inner_text("#trouble") and len(before) > 10
    start_server(ASR_TARGET="onnxruntime", ASR_PORT=port)
    wait_for(lambda: page.inner_text("#status").startswith("Listening"), seconds=60)
    assert page.inner_text("#stable").startswith(before)
    page.context.close()


def test_a_locked_server_asks_for_its_key_and_is_then_heard(browser, start_server):
    server = start_server(ASR_TARGET="onnxruntime", ASR_API_KEYS="sk-0123456789abcdef")
    page = browser.new_context(permissions=["microphone"]).new_page()
    page.goto(f"http://localhost:{server.address.split(':')[1]}/")
    for without in ("", WITHOUT_WEBRTC):
        page.evaluate("sessionStorage.clear()")
        page.reload()
        page.evaluate(f"() => {{{without}}}")
        page.click("#microphone")
        wait_for(lambda: page.is_visible("#trouble") and "API key is needed" in page.inner_text("#trouble"))
        page.fill("#key", "sk-0123456789abcdef")
        page.press("#key", "Enter")
        page.click("#microphone")
        wait_for(lambda: len(page.inner_text("#words")) > 3)
        page.click("#microphone")
        wait_for(lambda: page.inner_text("#status") == "Stopped.")
    page.set_input_files("#file", SHORT)
    wait_for(lambda: page.inner_text("#status") == "short.wav is transcribed.", seconds=60)
    page.context.close()


SEND_AT_ONCE = """async (encoded) => {
    const pcm = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0))
    const connection = new RTCPeerConnection(), channel = connection.createDataChannel("asr")
    channel.binaryType = "arraybuffer"
    await connection.setLocalDescription(await connection.createOffer())
    const offer = {type: "offer", sdp: connection.localDescription.sdp}, headers = {"Content-Type": "application/json"}
    const answer = await fetch("/webrtc", {method: "POST", body: JSON.stringify(offer), headers})
    await connection.setRemoteDescription(await answer.json())
    await new Promise((opened) => { channel.onopen = opened })
    const last = new Promise((told) => {
        channel.onmessage = ({data}) => { if (["final", "error"].includes(JSON.parse(data).op)) told(JSON.parse(data)) }
    })
    channel.send('{"op":"init","sid":"a"}')
    for (let start = 0; start < pcm.length; start += 3200) channel.send(pcm.slice(start, start + 3200))
    channel.send('{"op":"close"}')
    return await last
}"""


def test_a_browser_that_sends_faster_than_it_is_heard_is_held_back_and_loses_nothing(start_server, browser):
    """As one does that comes back from a tunnel: more at once than may wait."""
    server = start_server(ASR_TARGET="onnxruntime", MAX_BUFFER_SECONDS="20")
    page = browser.new_page()
    page.goto(f"http://localhost:{server.address.split(':')[1]}/")
    pcm = audio_file.load(MID)
    final = page.evaluate(SEND_AT_ONCE, base64.b64encode(pcm.tobytes()).decode())
    page.close()
    assert final["op"] == "final", final
    assert final["audio_ms"] == len(pcm) * 1000 // SAMPLE_RATE
    assert word_error_rate([text_of(MID)], [final["text"]]) <= 10


def test_words_of_a_channel_are_read_from_the_page(served, browser):
    page = browser.new_page()
    page.goto(f"http://{served.address}/?channel=stage&captions=1")
    wait_for(lambda: "Nobody" in page.evaluate("document.querySelector('#status').textContent"))
    codec = ("-c:a", "libopus", "-ar", "48000", "-ac", "2")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-re", "-i", SHORT, *codec, "-f", "whip"]
    subprocess.run([*command, f"http://{served.address}/whip/stage"], check=True, timeout=60)
    wait_for(lambda: "better" in page.inner_text("#stable"))
    assert word_error_rate([text_of(SHORT)], [page.inner_text("#words")]) <= 15
    page.close()


def test_the_page_is_small_and_takes_nothing_from_elsewhere(served):
    web = PROJECT / "server" / "web"
    assert sum(path.stat().st_size for path in web.iterdir()) < 60 * 1024
    for path in ["/", *(f"/web/{name}" for name in ("page.js", "page.css", "capture.js", "moonshine-client.js"))]:
        response = httpx.get(f"http://{served.address}{path}", trust_env=False)
        assert response.status_code == 200 and "default-src 'self'" in response.headers["content-security-policy"]
