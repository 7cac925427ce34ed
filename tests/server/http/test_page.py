"""The page, in a real browser with a microphone that plays a recording."""

import base64
import http.server
import shutil
import subprocess
import threading
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


KEEP_CONTEXTS = """
const Original = AudioContext;
globalThis.contexts = [];
globalThis.AudioContext = class extends Original { constructor(...all) { super(...all); contexts.push(this); } };
"""


def test_sound_that_the_browser_takes_away_is_told_and_comes_back_with_a_touch(page):
    """As a call or the lock screen does on phones; the page used to say that it listened."""
    page.add_init_script(KEEP_CONTEXTS)
    page.reload()
    page.click("#microphone")
    wait_for(lambda: page.inner_text("#status").startswith("Listening"))
    page.evaluate("() => { contexts[0].resume = async () => {}; return contexts[0].suspend(); }")
    wait_for(lambda: page.is_visible("#trouble") and "paused the sound" in page.inner_text("#trouble"))
    page.evaluate("() => { delete contexts[0].resume; }")
    page.mouse.click(5, 5)
    wait_for(lambda: page.inner_text("#status").startswith("Listening") and not page.is_visible("#trouble"))
    page.click("#microphone")
    wait_for(lambda: page.inner_text("#status") == "Stopped.")


class Proxy(http.server.BaseHTTPRequestHandler):
    """Serves another server below /asr/."""

    behind: str

    def do_GET(self) -> None:
        self.pass_on("GET", b"")

    def do_POST(self) -> None:
        self.pass_on("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def pass_on(self, method: str, body: bytes) -> None:
        if not self.path.startswith("/asr/"):
            self.send_error(404)
            return
        headers = {"Content-Type": self.headers["Content-Type"] or ""}
        answer = httpx.request(method, f"http://{self.behind}{self.path[4:]}", content=body, headers=headers, trust_env=False)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("content-type", ""))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        pass


def test_the_page_works_below_a_path_of_a_proxy(served, page):
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Behind", (Proxy,), {"behind": served.address}))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    page.goto(f"http://localhost:{proxy.server_address[1]}/asr/")
    page.click("#microphone")
    wait_for(lambda: len(page.inner_text("#words")) > 3)
    page.click("#microphone")
    wait_for(lambda: page.inner_text("#status") == "Stopped.")
    proxy.shutdown()


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
