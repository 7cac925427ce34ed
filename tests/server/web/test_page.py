"""The page in Chromium: microphone, sample, files, captions, and what goes wrong."""

import base64
import http.server
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import imageio_ffmpeg
import pytest
import srt

from benchmarks.harness.accuracy import word_error_rate
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE
from tests.conftest import PROJECT
from tests.server.web.browsing import (
    CHROMIUM,
    MID,
    SHORT,
    WITHOUT_WEBRTC,
    address_of,
    is_right,
    sample_text,
    stable_words,
    status,
    text_of,
    wait_for,
    wait_for_status,
    words,
)
from tests.server.web.conftest import INSECURE_HOST

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]
MOST_PICTURE_BYTES = 1_500_000
KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize(("without", "via"), [("", "WebRTC"), (WITHOUT_WEBRTC, "WebSocket")])
def test_words_of_the_microphone_appear_and_are_right(page, without, via):
    if without:
        page.evaluate(without)
    page.click("#microphone")
    wait_for(lambda: len(words(page)) > 3)
    assert status(page) == f"Listening over {via}" and page.title() == "● Listening"
    assert page.inner_text("#microphone") == "Stop" and page.inner_text("#delay").endswith(" s")
    wait_for(lambda: "better" in words(page))
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")
    assert is_right(text_of(SHORT), stable_words(page)) and stable_words(page) == words(page)
    assert page.title() == "Speech to text" and page.inner_text("#microphone") == "Start microphone"


WATCH_SHIFTS = """
globalThis.shifts = [];
const isListening = () => document.body?.dataset.state === "listening";
const describe = ({node}) => `${node?.nodeName} ${node?.textContent}`;
new PerformanceObserver((list) => {
    const found = list.getEntries().filter((each) => !each.hadRecentInput);
    if (isListening()) shifts.push(...found.flatMap((each) => each.sources.map(describe)));
}).observe({type: "layout-shift", buffered: true});
"""


def test_the_sample_needs_no_microphone_and_no_https_and_nothing_jumps_while_words_arrive(served, open_page):
    page = open_page(served, host=INSECURE_HOST)
    assert not page.evaluate("isSecureContext") and page.is_disabled("#microphone") and page.is_visible("#insecure")
    page.add_init_script(WATCH_SHIFTS)
    page.reload()
    page.click("#sample")
    wait_for(lambda: len(words(page)) > 3)
    page.evaluate("shifts.length = 0")  # the page's own change from its first screen
    wait_for(lambda: status(page) == "Stopped")
    assert is_right(sample_text(), words(page))
    assert page.evaluate("shifts") == []
    page.click("#copy")
    assert page.inner_text("#notice") == "Copied", "without the newer clipboard"


def test_the_page_is_ready_in_a_second_and_loads_little(page):
    seconds = []
    for _ in range(3):
        page.reload()
        page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
        seconds.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
    assert min(seconds) <= 1.0, seconds
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').filter(({name}) => name.includes('/web/')).map((each) => each.decodedBodySize)"
    )
    assert len(sizes) > 5 and sum(sizes) < 80 * 1024


KEEP_CONTEXTS = """
const Original = AudioContext;
globalThis.contexts = [];
globalThis.AudioContext = class extends Original { constructor(...all) { super(...all); contexts.push(this); } };
"""


def test_audio_that_the_browser_takes_away_is_reported_and_comes_back_with_a_touch(page):
    """As a call or the lock screen does on phones."""
    page.add_init_script(KEEP_CONTEXTS)
    page.reload()
    page.click("#microphone")
    wait_for_status(page, "Listening")
    page.evaluate("() => { contexts[0].resume = async () => {}; return contexts[0].suspend(); }")
    wait_for(lambda: page.is_visible("#trouble") and "paused the audio" in page.inner_text("#trouble"))
    page.evaluate("() => { delete contexts[0].resume; }")
    page.mouse.click(5, 5)
    wait_for(lambda: not page.is_visible("#trouble"))
    assert status(page).startswith("Listening")
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")


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
    page.click("#sample")
    wait_for(lambda: len(words(page)) > 3)
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")
    proxy.shutdown()


def test_files_follow_each_other_with_their_names_and_times_that_go_on(page, tmp_path):
    page.set_input_files("#file", [MID, SHORT])
    wait_for(lambda: page.locator("progress").count() == 2)
    assert page.locator(".block h2").all_inner_texts() == ["mid.wav", "short.wav"]
    wait_for(lambda: status(page) == "short.wav is transcribed", seconds=90)
    assert page.locator("progress").count() == 0
    assert is_right(text_of(MID), words(page, 0)) and is_right(text_of(SHORT), words(page, 1))
    times = [seconds_of(time) for time in page.locator(".time").all_inner_texts()]
    assert times == sorted(times) and times[-1] > 35
    for form in ("srt", "json", "txt"):
        saved = downloaded(page, form)
        assert re.fullmatch(rf"transcript-\d{{4}}-\d\d-\d\d-\d{{4}}\.{form}", saved.suggested_filename)
        check_download(form, Path(saved.path()).read_text())


def seconds_of(time: str) -> int:
    minutes, seconds = time.split(":")
    return 60 * int(minutes) + int(seconds)


def downloaded(page, form: str):
    page.select_option("#format", form)
    with page.expect_download() as found:
        page.click("#download")
    return found.value


def check_download(form: str, text: str) -> None:
    both = f"{text_of(MID)} {text_of(SHORT)}"
    if form == "srt":
        cues = list(srt.parse(text, ignore_errors=False))
        assert [cue.index for cue in cues] == list(range(1, len(cues) + 1))
        assert all(before.end <= after.start for before, after in zip(cues, cues[1:], strict=False))
        assert is_right(both, " ".join(cue.content for cue in cues))
    elif form == "json":
        starts = [segment["start_ms"] for segment in json.loads(text)["segments"]]
        assert starts == sorted(starts)
    else:
        assert is_right(both, text) and "\n\n" in text


def test_a_single_file_gives_downloads_its_name_and_a_paragraph_is_copied_by_its_time(page):
    page.set_input_files("#file", SHORT)
    wait_for_status(page, "short.wav is transcribed")
    assert downloaded(page, "vtt").suggested_filename == "short.vtt"
    page.click(".time")
    assert page.evaluate("navigator.clipboard.readText()") == words(page).strip()


def test_names_of_the_settings_are_written_as_they_were_given(page):
    page.click("#show-settings")
    page.fill("#keyterms", "white whale, Ishmael")
    page.click("#settings button")
    page.set_input_files("#file", PROJECT / "tests/data/eval/04_slt.flac")
    wait_for_status(page, "04_slt.flac is transcribed")
    assert "Call me Ishmael" in words(page)


def test_what_is_wrong_with_a_file_is_said_and_the_next_one_is_transcribed(page):
    page.set_input_files("#file", [PROJECT / "README.md", SHORT])
    wait_for_status(page, "short.wav is transcribed")
    assert page.inner_text(".failed") == "This is not an audio file."
    assert is_right(text_of(SHORT), words(page))
    page.click(".failed + button")
    assert page.locator(".block h2").all_inner_texts() == ["short.wav"]


def test_clearing_loses_nothing_of_what_is_said_now_and_can_be_undone(page):
    assert not page.is_visible("#actions"), "there is nothing to copy yet"
    page.set_input_files("#file", SHORT)
    wait_for_status(page, "short.wav is transcribed")
    before = words(page, 0)
    page.click("#sample")
    wait_for(lambda: len(words(page)) > 3 and page.locator(".block").count() == 2)
    page.click("#clear")
    assert page.locator(".block").count() == 1 and status(page).startswith("Listening")
    page.click("#notice button")
    assert page.locator(".block h2").all_inner_texts() == ["short.wav", "Sample: A Tale of Two Cities"]
    assert words(page, 0) == before
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")
    page.click("#clear")
    assert page.inner_text("#blocks") == "" and not page.is_visible("#actions")


def test_the_text_survives_a_reload_and_captions_keep_the_session(page):
    page.click("#sample")
    wait_for(lambda: len(words(page)) > 10)
    page.click("#show-captions")
    before = words(page)
    assert not page.is_visible("header") and "captions=1" in page.url and "size=" in page.url
    wait_for(lambda: len(words(page)) > len(before))
    page.keyboard.press("Escape")
    assert page.is_visible("header") and status(page).startswith("Listening") and "captions" not in page.url
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")
    text = words(page)
    page.reload()
    wait_for(lambda: words(page) == text)
    assert page.is_visible("#actions")
    other = page.context.new_page()
    other.goto(page.url)
    assert words(other) == "", "each tab has a text of its own"
    other.reload()
    other.click("#last")
    assert words(other) == text
    page.reload()
    assert words(page) == text


@pytest.mark.parametrize("without", ["", WITHOUT_WEBRTC])
def test_a_page_that_is_left_frees_its_place_at_once(served, page, without):
    if without:
        page.evaluate(without)
    page.click("#sample")
    wait_for(lambda: len(words(page)) > 3)
    page.goto(f"http://{served.address}/docs")
    wait_for(lambda: served.get("/readyz").json()["sessions"] == 0, seconds=5)


DELAYED_MICROPHONE = """
const answer = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
globalThis.tracks = [];
navigator.mediaDevices.getUserMedia = async (asked) => {
    await new Promise((resolve) => { globalThis.allow = resolve; });
    const media = await answer(asked);
    tracks.push(...media.getTracks());
    return media;
};
"""


def test_a_stop_before_the_microphone_is_allowed_turns_it_off(served, page):
    page.add_init_script(DELAYED_MICROPHONE)
    page.reload()
    page.click("#microphone")
    assert status(page) == "Connecting…"
    page.mouse.click(5, 5)
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")
    page.evaluate("allow()")
    wait_for(lambda: page.evaluate("tracks.length === 1 && tracks[0].readyState === 'ended'"))
    assert served.get("/readyz").json()["sessions"] == 0 and not page.is_visible("#trouble")


def test_a_second_press_on_stop_starts_nothing(page):
    page.click("#sample")
    wait_for_status(page, "Listening")
    page.evaluate("document.querySelector('#microphone').click()")
    wait_for(lambda: status(page) == "Stopped")
    page.evaluate("document.querySelector('#microphone').click()")
    assert status(page) == "Stopped"


def test_pressing_twice_leaves_one_session(served, page):
    page.click("#microphone")
    wait_for_status(page, "Listening")
    page.evaluate("() => { for (let count = 0; count < 2; count++) document.querySelector('#sample').click(); }")
    wait_for(lambda: page.locator(".block h2").last.inner_text().startswith("Sample") and status(page).startswith("Listening"))
    assert served.get("/readyz").json()["sessions"] == 1
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")


def test_captions_look_as_their_address_says(served, open_page):
    page = open_page(served, "/?captions=1&size=30&lines=3&color=ffee00&background=002200&opacity=100&position=top")
    style = page.evaluate("(({fontSize, color}) => [fontSize, color])(getComputedStyle(document.querySelector('#transcript')))")
    assert style == ["30px", "rgb(255, 238, 0)"]
    assert page.evaluate("document.body.classList.contains('at-top')") and page.input_value("#captions-lines") == "3"


def test_words_of_a_channel_are_read_from_the_page(served, open_page):
    page = open_page(served, "/?channel=stage&captions=1")
    wait_for(lambda: "Nobody" in page.text_content("#status"))
    codec = ("-c:a", "libopus", "-ar", "48000", "-ac", "2")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-re", "-i", SHORT, *codec, "-f", "whip"]
    subprocess.run([*command, f"http://{served.address}/whip/stage"], check=True, timeout=60)
    wait_for(lambda: "better" in stable_words(page))
    assert word_error_rate([text_of(SHORT)], [words(page)]) <= 15
    page.reload()
    wait_for(lambda: "better" in stable_words(page))
    assert page.locator(".block").count() == 1, "the events come again, and the tab keeps no draft of somebody else's words"


def test_a_server_that_goes_away_and_comes_back_is_found_again_and_no_word_turns_grey(open_page, start_server):
    server = start_server()
    page = open_page(server)
    page.click("#sample")
    wait_for(lambda: len(stable_words(page)) > 20)
    server.process.kill()
    server.process.wait()
    wait_for_status(page, "Reconnecting", seconds=60)
    before = stable_words(page)
    assert page.inner_text("#trouble") == "Cannot reach the server. Your text is safe. Trying again…"
    start_server(ASR_PORT=server.address.split(":")[1])
    while not status(page).startswith(("Listening", "Finishing", "Stopped")):
        assert len(stable_words(page)) >= len(before)
        time.sleep(0.05)
    wait_for(lambda: status(page) == "Stopped", seconds=60)
    assert is_right(sample_text(), words(page))


def test_a_locked_server_asks_for_its_key_and_then_goes_on(open_page, start_server):
    server = start_server(ASR_API_KEYS=KEY)
    page = open_page(server)
    for without in ("", WITHOUT_WEBRTC):
        page.evaluate("sessionStorage.clear()")
        page.reload()
        page.evaluate(f"() => {{{without}}}")
        page.click("#sample")
        wait_for(lambda: page.is_visible("#key-dialog"))
        assert page.evaluate("document.activeElement.id") == "asked-key"
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        wait_for(lambda: len(words(page)) > 3)
        page.click("#microphone")
        wait_for(lambda: status(page) == "Stopped")
    page.evaluate("sessionStorage.clear()")
    page.set_input_files("#file", SHORT)
    wait_for(lambda: page.is_visible("#key-dialog"))
    page.fill("#asked-key", KEY)
    page.keyboard.press("Enter")
    wait_for_status(page, "short.wav is transcribed")
    assert "Base" in page.inner_text("#model")


def test_a_full_server_says_what_to_do(start_server, open_page):
    server = start_server(ASR_MAX_SESSIONS="1")
    first, second = open_page(server), open_page(server)
    first.click("#sample")
    wait_for_status(first, "Listening")
    second.click("#sample")
    wait_for(lambda: second.inner_text("#trouble") == "The server is full. Trying again…")
    assert status(second) == "Connecting…"
    wait_for(lambda: status(second) == "Stopped", seconds=30)
    assert second.inner_text("#trouble") == "The server is full."


def test_settings_are_remembered(page):
    page.click("#show-settings")
    page.check("#noiseSuppression")
    page.select_option("#text-size", "30")
    page.click("#settings .main")
    page.reload()
    assert page.is_checked("#noiseSuppression")
    assert page.evaluate("getComputedStyle(document.querySelector('#transcript')).fontSize") == "30px"


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


def test_a_browser_that_sends_faster_than_it_is_transcribed_is_held_back_and_loses_nothing(start_server, browser):
    """As one does that comes back from a tunnel: more at once than may wait."""
    server = start_server(MAX_BUFFER_SECONDS="20")
    page = browser.new_page()
    page.goto(address_of(server))
    pcm = audio_file.load(MID)
    final = page.evaluate(SEND_AT_ONCE, base64.b64encode(pcm.tobytes()).decode())
    page.close()
    assert final["op"] == "final", final
    assert final["audio_ms"] == len(pcm) * 1000 // SAMPLE_RATE
    assert word_error_rate([text_of(MID)], [final["text"]]) <= 10


def test_the_pictures_of_the_docs_are_made_from_real_sessions(served, tmp_path):
    program = [sys.executable, "scripts/make_pictures.py", "--server", f"localhost:{served.address.split(':')[1]}"]
    subprocess.run([*program, "--out", tmp_path, "--seconds", "2"], cwd=PROJECT, check=True, timeout=90)
    kept = {path.name for path in (PROJECT / "docs" / "pictures").iterdir() if path.suffix != ".svg"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (PROJECT / "docs" / "pictures" / "words-arriving.webp").stat().st_size < MOST_PICTURE_BYTES


def test_everything_comes_from_this_server(served):
    for path in sorted((PROJECT / "server" / "web").iterdir()):
        where = {"index.html": "/", "llms.txt": "/llms.txt"}.get(path.name, f"/web/{path.name}")
        response = httpx.get(f"http://{served.address}{where}", trust_env=False)
        assert response.status_code == 200 and "default-src 'self'" in response.headers["content-security-policy"], where
