"""LiveKit's and pipecat's own plugins, unmodified, each in an environment of its own, by the examples that show them."""

import http.server
import json
import os
import subprocess
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.harness.accuracy import word_error_rate
from tests.conftest import PROJECT, RunningServer, Speech

LIVEKIT = ("livekit-plugins-openai==1.8.9", "livekit-plugins-deepgram==1.8.9")
PIPECAT = ("pipecat-ai[deepgram,openai]==1.14.0",)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime")


def environment(directory: Path, packages: tuple[str, ...]) -> Path:
    """Its Python."""
    venv.create(directory, with_pip=True)
    without_path = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([directory / "bin" / "pip", "install", "--quiet", *packages], check=True, env=without_path)
    return directory / "bin" / "python"


@pytest.fixture(scope="module")
def livekit(tmp_path_factory) -> Path:
    return environment(tmp_path_factory.mktemp("livekit"), LIVEKIT)


@pytest.fixture(scope="module")
def pipecat(tmp_path_factory) -> Path:
    return environment(tmp_path_factory.mktemp("pipecat"), PIPECAT)


class Echo(http.server.BaseHTTPRequestHandler):
    """A language model with OpenAI's chat API that says again what the user said."""

    def do_POST(self) -> None:
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        said = [message["content"] for message in messages if message["role"] == "user"][-1]
        text = said if isinstance(said, str) else said[0]["text"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in (({"role": "assistant", "content": f"You said: {text}"}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "echo", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def language_model() -> Iterator[str]:
    model = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{model.server_address[1]}/v1"
    model.shutdown()


def lines_of(python: Path, example: str, server: RunningServer, *arguments: str, **more: str) -> list[str]:
    command = [python, f"examples/{example}", "samples/short.wav", *arguments]
    variables = os.environ | {"SERVER": server.address, "NO_PROXY": "*", "no_proxy": "*"} | more
    done = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def after(lines: list[str], kind: str) -> list[str]:
    return [line.removeprefix(kind).strip() for line in lines if line.startswith(kind)]


@pytest.mark.parametrize("plugin", ["openai", "deepgram", "flux"])
def test_livekit_hears_turns_interims_and_finals(served, livekit, recordings: dict[str, Speech], plugin):
    lines = lines_of(livekit, "livekit_stt.py", served, plugin)
    kinds = [line.split()[0] for line in lines]
    assert kinds.index("start_of_speech") < kinds.index("interim_transcript") < kinds.index("final_transcript")
    assert "end_of_speech" in kinds
    assert word_error_rate([recordings["short"].text], [" ".join(after(lines, "final_transcript"))]) <= 15


@pytest.mark.parametrize("service", ["openai", "deepgram", "flux"])
def test_pipecat_hears_interims_and_finals(served, pipecat, recordings: dict[str, Speech], service):
    lines = lines_of(pipecat, "pipecat_stt.py", served, service)
    assert after(lines, "InterimTranscriptionFrame")
    assert word_error_rate([recordings["short"].text], [" ".join(after(lines, "TranscriptionFrame"))]) <= 15


def test_a_call_in_the_messages_of_pipecat_s_twilio_serializer_is_transcribed(served, pipecat, recordings: dict[str, Speech]):
    script, address = PROJECT / "tests" / "data" / "pipecat_twilio.py", f"ws://{served.address}/v1/telephone/twilio/desk"
    subprocess.run([pipecat, script, "samples/short.wav", address], cwd=PROJECT, check=True, timeout=120)
    events = httpx.get(f"http://{served.address}/v1/channels/desk/events", trust_env=False, timeout=30).text
    final = json.loads(events.strip().splitlines()[-1].removeprefix("data: "))
    assert final["op"] == "final" and word_error_rate([recordings["short"].text], [final["text"]]) <= 20


@pytest.mark.parametrize("stt", ["deepgram", "flux"])
def test_a_livekit_agent_answers_what_was_said(served, livekit, language_model, recordings: dict[str, Speech], stt):
    lines = lines_of(livekit, "livekit_agent.py", served, stt, LLM_URL=language_model)
    check_answers(after(lines, "user"), after(lines, "assistant"), recordings["short"].text)


@pytest.mark.parametrize("stt", ["deepgram", "flux"])
def test_a_pipecat_agent_answers_what_was_said(served, pipecat, language_model, recordings: dict[str, Speech], stt):
    answers = lines_of(pipecat, "pipecat_agent.py", served, stt, LLM_URL=language_model)
    said = [answer.removeprefix("You said: ") for answer in answers]
    check_answers(said, answers, recordings["short"].text)


def check_answers(said: list[str], answers: list[str], text: str) -> None:
    assert word_error_rate([text], [" ".join(said)]) <= 15
    assert answers == [f"You said: {each}" for each in said]
