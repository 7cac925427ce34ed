"""Both clients, in Python and in JavaScript, make the same of the same messages, and try again alike."""

import asyncio
import json
import shutil
import subprocess

import pytest

from moonshine_client import client
from moonshine_client.interims import Interims
from moonshine_client.transcripts import ChannelTranscripts, TranscriptAssembler
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


def said(op: str, channel: int, text: str = "", offset: int = 0) -> dict:
    """A message of a channel, with its new text in one segment."""
    segments = [{"text": text, "start_ms": 100 * channel, "end_ms": 900}] if text else []
    more = {"offset": offset, "text": text, "segments": segments, "audio_ms": 1000, "latency_ms": 1.0}
    return {"op": op, "sid": "a", "channel": channel, "stable": offset + len(text)} | more


def test_a_final_that_overtakes_a_flush_loses_no_channel():
    """The server finished while the second channel's flush was under way."""
    transcripts = ChannelTranscripts(has_words=False, channels=2)
    assert transcripts.take(said("flushed", 0, "hi")) is None
    assert transcripts.take(said("final", 0, offset=2)) is None
    final = transcripts.take(said("final", 1, "there"))
    assert final is not None and final["text"] == "hi there" and [each["text"] for each in final["channels"]] == ["hi", "there"]


def test_each_flush_is_done_once_all_channels_have_answered_it():
    transcripts = ChannelTranscripts(has_words=False, channels=2)
    answers = [transcripts.take(said("flushed", channel)) for channel in (0, 0, 1, 1)]
    assert [answer is not None for answer in answers] == [False, False, True, True]


def test_the_newest_interims_of_each_channel_are_kept():
    async def read() -> list[dict]:
        interims = Interims(most=1)
        for number, channel in enumerate([0, 1, 0, 0, 1]):
            interims.put({"channel": channel, "number": number})
        interims.end()
        return [interim async for interim in until_none(interims)]

    assert [(each["channel"], each["number"]) for each in asyncio.run(read())] == [(0, 3), (1, 4)]


async def until_none(interims: Interims):
    while (interim := await interims.next()) is not None:
        yield interim


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
