"""The developers' panel: what it sends, shows, and gives to copy. Every example is run."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial

import pytest

from tests.conftest import PROJECT
from tests.server.web.browsing import CHROMIUM, SHORT, address_of, is_right, status, text_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]
APIS = ("native", "realtime", "deepgram", "rest")
EXAMPLES = [
    ("native", "Python"),
    ("native", "JavaScript"),
    ("realtime", "Python"),
    ("realtime", "JavaScript"),
    ("deepgram", "curl"),
    ("deepgram", "Python"),
    ("deepgram", "JavaScript"),
    ("rest", "curl"),
    ("rest", "Python"),
    ("rest", "JavaScript"),
]
RECORDING_MS = 11_000
KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def locked(start_server):
    return start_server(ASR_API_KEYS=KEY, ASR_MAX_SESSIONS="3", ASR_CORS_ORIGINS="*")


@pytest.fixture
def panel(locked, open_page):
    """The panel of a server that asks for a key, which the page has."""
    page = open_page(locked, "/#developers")
    page.evaluate(f"sessionStorage.setItem('key', '{KEY}')")
    page.reload()
    wait_for(lambda: page.is_visible("#developers") and page.locator("#api-model option").first.inner_text() != "default")
    return page


def example(page, api: str, language: str) -> str:
    page.select_option("#api", api)
    page.click(f"#tab-{language}")
    return page.inner_text("#snippet")


def shown_events(page) -> list[dict]:
    return [json.loads(line) for line in page.inner_text("#events").splitlines()] or [{}]


def test_every_example_of_the_panel_is_run_here(panel):
    found = []
    for api in APIS:
        panel.select_option("#api", api)
        found += [(api, language) for language in panel.locator("#tabs button").all_inner_texts()]
    assert sorted(found) == sorted(EXAMPLES)
    panel.click("#copy-snippet")
    assert panel.evaluate("navigator.clipboard.readText()") == panel.inner_text("#snippet")


@pytest.mark.parametrize(("api", "language"), EXAMPLES)
def test_an_example_runs_as_it_is_copied(panel, open_page, locked, tmp_path, api, language):
    panel.fill("#api-terms", "Samuel Beckett, fail better")
    text = example(panel, api, language)
    for name in ("numerals", "profanity", "fillers", "channels"):
        if panel.is_visible(f"#api-{name}"):
            panel.check(f"#api-{name}")
    if panel.is_visible("#api-redact"):
        panel.select_option("#api-redact", "email")
    text = panel.inner_text("#snippet")
    assert KEY in text and "Beckett" in text and ("redact" in text) == (api in ("native", "deepgram"))
    assert ("multichannel" in text) == (api in ("rest", "deepgram"))
    if language == "JavaScript" and api != "rest":
        run_in_a_page(panel, text)
        return
    shutil.copy(SHORT, tmp_path / "recording.wav")
    name = {"curl": "call.sh", "Python": "call.py", "JavaScript": "call.mjs"}[language]
    (tmp_path / name).write_text(text)
    program = {"curl": "bash", "Python": sys.executable, "JavaScript": "node"}[language]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "NO_PROXY": "*"}
    done = subprocess.run([program, name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "fail better" in done.stdout.lower()


class Example(http.server.BaseHTTPRequestHandler):
    """A developer's own page, from another origin than the server's."""

    text: str

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f'<script type="module">{self.text}</script>'.encode())

    def log_message(self, *_: object) -> None:
        pass


def run_in_a_page(panel, text: str) -> None:
    """With the microphone that plays a recording."""
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Copied", (Example,), {"text": text}))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    page, said = panel.context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"http://localhost:{pages.server_address[1]}/")
    page.mouse.click(5, 5)  # browsers let a page run its audio once somebody has touched it
    wait_for(lambda: page.evaluate("true") and any("better" in each for each in said))  # evaluating brings the messages
    page.close()
    pages.shutdown()


@pytest.mark.parametrize("api", APIS)
def test_the_chosen_api_is_called_and_its_events_are_shown(panel, api):
    panel.select_option("#api", api)
    panel.click("#microphone")
    wait_for(lambda: status(panel).startswith("Listening"))
    if api == "rest":
        wait_for(lambda: panel.evaluate("performance.now()") > RECORDING_MS)
    else:
        wait_for(lambda: "better" in panel.inner_text("#events"))
    panel.click("#microphone")
    wait_for(lambda: status(panel) == "Stopped")
    is_whole = {
        "native": lambda events: events[-1].get("op") == "final",
        "deepgram": lambda events: events[-1].get("type") == "Metadata",
        "rest": lambda events: is_right(text_of(SHORT), events[-1].get("text", "")) and events[-1]["words"],
        "realtime": lambda events: any(event["type"].endswith("transcription.completed") for event in events),
    }
    wait_for(lambda: is_whole[api](shown_events(panel)))  # events are drawn with the page's next frame


def test_options_change_the_example(panel):
    panel.select_option("#api", "deepgram")
    panel.select_option("#api-silence", "300")
    panel.uncheck("#api-interims")
    text = example(panel, "deepgram", "Python")
    assert "endpointing=300" in text and "interim_results" not in text
    panel.select_option("#api", "rest")
    panel.select_option("#api-language", "en")
    assert '"en"' in example(panel, "rest", "Python")


def test_a_wrong_key_is_asked_for_again(locked, open_page):
    page = open_page(locked, "/#developers")
    wait_for(lambda: page.is_visible("#developers"))
    page.click("#sample")
    for entered in ("sk-no-key-of-this-server", KEY):
        wait_for(lambda: page.is_visible("#key-dialog"))
        page.fill("#asked-key", entered)
        page.keyboard.press("Enter")
    wait_for(lambda: '"op":"interim"' in page.inner_text("#events"))
    page.click("#microphone")
    wait_for(lambda: status(page) == "Stopped")


def test_the_dictation_page_writes_what_is_said(panel, locked, start_server):
    server = start_server(ASR_CORS_ORIGINS="*")
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(PROJECT / "examples")))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    page = panel.context.new_page()
    page.goto(f"http://localhost:{pages.server_address[1]}/dictation.html?server={address_of(server, '')}")
    wait_for(lambda: page.evaluate("document.querySelector('#toggle').onclick !== null"))
    page.fill("#text", "Dear reader,")
    page.click("#toggle")
    wait_for(lambda: "better" in page.input_value("#text"))
    page.click("#toggle")
    wait_for(lambda: page.inner_text("#toggle") == "Dictate")
    before, _, said = page.input_value("#text").partition(", ")
    assert before == "Dear reader" and is_right(text_of(SHORT), said)
    pages.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
