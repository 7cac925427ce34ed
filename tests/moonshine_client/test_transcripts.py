"""Both clients, in Python and in JavaScript, make the same of the same messages, and try again alike."""

import json
import shutil
import subprocess

import pytest

from moonshine_client import client
from moonshine_client.transcripts import TranscriptAssembler
from tests.conftest import PROJECT

DATA = PROJECT / "tests" / "data"
CASES = json.loads((DATA / "transcripts.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_messages_make_a_transcript(case):
    transcript = TranscriptAssembler(has_words=False)
    for message in case["messages"]:
        if message["op"] == "go on":
            transcript.go_on()
        else:
            transcript.take(message)
    assert {
        "text": transcript.text,
        "stable_text": transcript.stable_text,
        "segments": transcript.segments,
        "closed_ms": transcript.closed_ms,
        "received_ms": transcript.received_ms,
    } == case["expected"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_javascript_client_does_the_same(tmp_path):
    module = tmp_path / "client.mjs"
    shutil.copy(PROJECT / "server" / "web" / "moonshine-client.js", module)
    command = ["node", DATA / "transcripts.mjs", module, DATA / "transcripts.json"]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert done["found"] == [case["expected"] for case in CASES]
    assert done["passing"] == sorted(client.PASSING)
    assert (done["soonest_ms"], done["latest_ms"]) == (1000 * client.SOONEST_SECONDS, 1000 * client.LATEST_SECONDS)
    assert done["most_vain"] == client.MOST_VAIN
