"""Several gateways in front of one engine process: what crosses, and what is lost with whom."""

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.accuracy import normalise
from moonshine_client.client import StreamingClient, transcribe
from moonshine_client.errors import StreamError
from runtime.audio import SAMPLE_RATE, Clip
from runtime.exceptions import EngineFailed, EngineStopped, RequestCancelled
from runtime.scheduler.keyterms import Keyterms, Spelling
from runtime.scheduler.requests import Priority, Request, Result, Timings
from server.processes import messages
from server.processes.messages import ReceivedParts, SentParts
from server.stream.segmenter import Segmenter
from server.stream.streaming_segmenter import StreamingSegmenter
from tests.conftest import RunningServer

UDP_PORTS = range(20_300, 20_364)
AGAIN_SECONDS = 60.0  # for a process to be there again
FINAL_SECONDS = 15.0  # for a final, where there is somebody to give it


def crossing(message: messages.ToEngine) -> messages.ToEngine:
    """The message as it comes out on the other side."""
    (there,) = messages.decode_to_engine(messages.encode([message]))
    return there


@settings(max_examples=60, deadline=None)
@given(
    loudness=st.lists(st.sampled_from([0, 3, 9000]), min_size=5, max_size=60),
    asks=st.lists(st.booleans(), min_size=60, max_size=60),
    kind=st.sampled_from([Segmenter, StreamingSegmenter]),
)
def test_the_engine_process_hears_what_the_session_means_and_audio_crosses_once(loudness, asks, kind):
    """Whatever is loud, quiet or cut, a request's clip on the other side is the clip, from audio that was sent once."""
    random = np.random.default_rng(len(loudness))
    segmenter, sent, held, crossed = kind(max_seconds=5.0), SentParts(), ReceivedParts(), 0
    heard: list[tuple[Clip, Clip]] = []
    for step, (level, ask) in enumerate(zip(loudness, asks, strict=False)):
        segmenter.append((random.standard_normal(SAMPLE_RATE // 2) * level + 300).astype(np.int16).tobytes())
        cut = segmenter.find_cut()
        if not (ask or cut):
            continue
        end = cut.position if cut else segmenter.end_of_update
        clip = segmenter.clip_between(end, 800) if cut else segmenter.clip_so_far(end)
        request = Request(step, "s", clip, draft=(7, 8), forced=1, end_bias=7.0, uncovered_seconds=0.5)
        message = crossing(sent.message_for(request))
        crossed += len(message.audio.new_pcm) // 2
        there = messages.request_of(message.asked, held.clip_of(message.audio), step, "s")
        assert np.array_equal(there.clip.samples, request.clip.samples) and there.clip.position == request.clip.position
        heard.append((request.clip, there.clip))
        assert (there.draft, there.forced, there.priority, there.max_tokens) == ((7, 8), 1, Priority.INTERIM, request.max_tokens)
        if cut:
            segmenter.advance(cut.earliest or cut.position)
    assert crossed <= segmenter.end, "no sample twice"
    assert all(np.array_equal(here.pcm, there.pcm) for here, there in heard), "what came later is not written into earlier clips"


TOKENS = st.lists(st.integers(0, 32_767), max_size=8).map(tuple)
SPELLINGS = st.lists(st.builds(Spelling, TOKENS.filter(bool), st.floats(0.1, 5)), min_size=1, max_size=4)
KEYTERMS = st.builds(Keyterms, SPELLINGS.map(tuple))
SECONDS = st.floats(0, 60)
REQUESTS = st.builds(
    Request,
    request_id=st.integers(0, 2**40),
    stream_id=st.text(),
    clip=st.builds(
        Clip,
        pcm=st.just(np.arange(320, dtype=np.int16)),
        position=st.just(640),
        ranges=st.none() | st.just(((640, 800), (900, 960))),
        offset=st.integers(-9_999, 9_999),
        gain=st.floats(1, 100),
        quiet_before=st.integers(0, 9_999),
        quiet_behind=st.integers(0, 9_999),
        gains=st.none() | st.just((2.0, 0.5)),
    ),
    draft=TOKENS,
    forced=st.just(0),
    priority=st.sampled_from(Priority),
    end_bias=st.floats(0, 10),
    uncovered_seconds=st.none() | SECONDS,
    is_retry=st.booleans(),
    align=st.booleans(),
    keyterms=st.none() | KEYTERMS,
)
ERRORS = st.sampled_from([EngineFailed, EngineStopped, RequestCancelled]).flatmap(lambda kind: st.builds(kind, st.text()))
RESULTS = st.builds(
    Result,
    request=st.none(),
    tokens=TOKENS,
    log_probs=st.lists(st.floats(-20, 0), max_size=8).map(tuple),
    end_log_prob=st.none() | st.floats(-20, 0),
    error=st.none() | ERRORS,
    cut_short=st.booleans(),
    first_frames=st.none() | TOKENS,
    frame_samples=st.integers(1, 999),
    timings=st.builds(Timings, SECONDS, SECONDS, st.integers(0, 99), st.integers(0, 99)),
)


def as_fields(value: Request | Result) -> dict[str, object]:
    """Comparable, and complete: a field that is added later is in it."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Request):
        clip = fields.pop("clip")
        fields |= {field.name: getattr(clip, field.name) for field in dataclasses.fields(clip)} | {"pcm": clip.pcm.tolist()}
    else:
        fields["error"] = (type(value.error), str(value.error))
    return fields


@given(request=REQUESTS)
def test_every_field_of_a_request_survives_the_crossing(request):
    message = crossing(SentParts().message_for(request))
    received = ReceivedParts()
    clip, keyterms = received.clip_of(message.audio), received.take_keyterms(message.keyterms)
    there = messages.request_of(message.asked, clip, request.request_id, request.stream_id, keyterms)
    assert as_fields(there) == as_fields(request)


@given(changes=st.lists(st.none() | KEYTERMS, min_size=1, max_size=6), repeats=st.integers(1, 3))
def test_keyterms_cross_once_and_are_those_of_each_request(changes, repeats):
    sent, received, crossed = SentParts(), ReceivedParts(), []
    for number, keyterms in enumerate(each for each in changes for _ in range(repeats)):
        request = Request(number, "s", Clip(np.arange(320, dtype=np.int16)), keyterms=keyterms)
        message = crossing(sent.message_for(request))
        crossed.append(message.keyterms)
        assert received.take_keyterms(message.keyterms) == keyterms
    assert sum(each is not None for each in crossed) <= len(changes), "not with each request"


@given(result=RESULTS)
def test_every_field_of_a_result_survives_the_crossing(result):
    (answer,) = messages.decode_answers(messages.encode([messages.answer_of(result, 7)]))
    assert answer.request_id == 7
    assert as_fields(messages.result_of(answer, result.request)) == as_fields(result)


def test_audio_that_is_missing_is_noticed():
    message = SentParts().message_for(Request(1, "s", Clip(np.zeros(640, np.int16))))
    audio = msgspec.structs.replace(message.audio, new_from=320)
    with pytest.raises(ValueError, match="audio up to 0 is here, and what comes begins at 320"):
        ReceivedParts().clip_of(audio)


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    """Two gateways before one engine process."""
    return start_server(
        ASR_WORKERS="2",
        ASR_MAX_SESSIONS="8",
        ASR_TARGET="onnxruntime",
        ASR_UDP_PORTS=f"{UDP_PORTS[0]}-{UDP_PORTS[-1]}",
    )


def processes_of(server: RunningServer) -> dict[str, list[int]]:
    """Ids of the supervisor's processes, by module."""
    found: dict[str, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (directory / "cmdline").read_bytes().decode().split("\0")
            if parent == server.process.pid and "-m" in arguments:
                found.setdefault(arguments[arguments.index("-m") + 1], []).append(int(directory.name))
    return found


def count_listeners(server: RunningServer) -> int:
    """Sockets that listen on its port: one for each gateway that takes connections."""
    port, listening = f"{int(server.address.rpartition(':')[2]):04X}", "0A"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(f":{port}") and state == listening for _, local, _, state, *_ in rows)


def udp_ports_of(pid: int) -> set[int]:
    """That a process listens on."""
    rows = [line.split() for table in ("udp", "udp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    ports = {row[9]: int(row[1].rpartition(":")[2], 16) for row in rows}
    held = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return {
        ports[inode] for inode in (name[len("socket:[") : -1] for name in held if name.startswith("socket:[")) if inode in ports
    }


def metric(server: RunningServer, name: str) -> float:
    text = server.get("/metrics").text
    return sum(float(value) for value in re.findall(rf"(?m)^{name}(?:{{[^}}]*}})? (\S+)", text))


def speak(server: RunningServer, audio: np.ndarray) -> str:
    return asyncio.run(transcribe(server.address, audio)).final["text"]


def test_streams_of_all_gateways_get_their_words_and_are_counted_together(served, recordings):
    asyncio.run(until_all_are_ready(served))
    before = metric(served, "asr_sessions_total")

    async def four() -> list:
        return await asyncio.gather(*(transcribe(served.address, recordings["short"].samples) for _ in range(4)))

    for transcription in asyncio.run(four()):
        assert "fail better" in transcription.final["text"].lower() and transcription.interims
    assert metric(served, "asr_sessions_total") == before + 4
    assert metric(served, "asr_requests_total") >= 4, "the engine process counts into the same page"


def test_a_gateway_that_is_killed_takes_only_its_sessions(served, recordings):
    asyncio.run(until_all_are_ready(served))
    audio = recordings["short"].samples

    async def one(opened: asyncio.Semaphore, killed: asyncio.Event) -> dict | None:
        """The final, or None where the connection is gone."""
        async with StreamingClient(served.address, resume_seconds=0) as client:
            await client.send(audio[: 2 * SAMPLE_RATE].tobytes())
            opened.release()
            await killed.wait()
            with contextlib.suppress(TimeoutError, StreamError):
                for start in range(2 * SAMPLE_RATE, len(audio), SAMPLE_RATE):
                    await client.send(audio[start : start + SAMPLE_RATE].tobytes())
                return await asyncio.wait_for(client.close(), FINAL_SECONDS)
        return None

    async def kill_one_of_two() -> tuple[list[dict | None], int]:
        opened, killed = asyncio.Semaphore(0), asyncio.Event()
        streams = []

        async def open_one() -> None:
            streams.append(asyncio.create_task(one(opened, killed)))
            await opened.acquire()

        for _ in range(6):
            await open_one()
        while not all(map(udp_ports_of, processes_of(served)["server.processes.gateway"])):  # the kernel deals them out by chance
            streams.pop().cancel()
            await open_one()
        before = set(processes_of(served)["server.processes.gateway"])
        os.kill(min(before), signal.SIGKILL)
        await until(lambda: len(set(processes_of(served)["server.processes.gateway"]) - {min(before)}) == 2, "new gateway")
        left = round(metric(served, "asr_sessions_open"))
        killed.set()
        return await asyncio.gather(*streams), left

    finals, left = asyncio.run(kill_one_of_two())
    texts = [final["text"] for final in finals if final]
    assert 0 < left < 6, "sessions were on both gateways; else nothing is shown"
    assert len(texts) == left, "the sessions of the other gateway go on, those of this one are gone"
    assert all("fail better" in text.lower() for text in texts)
    assert "fail better" in speak(served, audio).lower(), "and new ones are taken"


async def until_all_are_ready(server: RunningServer, gateways: int = 2) -> None:
    """Each gateway finds each engine process by itself, some tenths of a second apart."""
    await until(lambda: count_listeners(server) == gateways, "gateways that all listen")
    await until(lambda: all(server.get("/readyz").status_code == 200 for _ in range(20)), "gateways that are all ready")
    await asyncio.sleep(2 * messages.PULSE_SECONDS)


async def until(holds, what: str) -> None:
    """Other processes offer nothing to wait on."""
    deadline = time.monotonic() + AGAIN_SECONDS
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, f"no {what} within {AGAIN_SECONDS:g} s"
        await asyncio.sleep(0.05)


def test_an_engine_process_that_is_killed_is_started_again_and_its_sessions_are_told(served, recordings):
    async def lose_the_engine() -> StreamError:
        async with StreamingClient(served.address, resume_seconds=0) as client:
            await client.send(recordings["short"].samples[:SAMPLE_RATE].tobytes())
            (pid,) = processes_of(served)["server.processes.engine_process"]
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(StreamError) as lost:
                await client.close()
            return lost.value

    lost = asyncio.run(lose_the_engine())
    assert lost.reason == "engine_failed" and "is being started again" in lost.message
    assert lost.details["sid"] and "audio_ms" in lost.details, "with what may be kept"
    ready = served.get("/readyz")
    assert ready.status_code == 503 and ready.json()["reason"] == "warming_up"
    assert served.get("/healthz").status_code == 200, "it mends itself: nobody should kill it"
    asyncio.run(until_all_are_ready(served))
    assert "fail better" in speak(served, recordings["short"].samples).lower()


def test_streams_are_dealt_out_to_engine_processes_and_only_those_of_a_dead_one_are_lost(start_server, recordings):
    server = start_server(ASR_WORKERS="2", ASR_ENGINES="2", ASR_TARGET="onnxruntime")

    async def four_of_which_some_are_lost() -> list[str]:
        await until_all_are_ready(server)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(StreamingClient(server.address, resume_seconds=0)) for _ in range(4)]
            for client in clients:
                await client.send(recordings["short"].samples[: 4 * SAMPLE_RATE].tobytes())
            os.kill(processes_of(server)["server.processes.engine_process"][0], signal.SIGKILL)
            await until(lambda: server.log.read_text().count("streams are lost") == 2, "word of it from both gateways")
            assert server.get("/readyz").status_code == 200, "the other engine serves on"
            said = []
            for client in clients:
                try:
                    said.append((await client.close())["op"])
                except StreamError as error:
                    said.append(error.reason)
            return said

    said = asyncio.run(four_of_which_some_are_lost())
    assert set(said) == {"engine_failed", "final"}, said


@pytest.mark.parametrize(
    ("victim", "fate"), [("server.processes.engine_process", signal.SIGSTOP), ("server.processes.gateway", signal.SIGKILL)]
)
def test_streams_that_lose_a_process_go_on_by_themselves_with_every_word(served, recordings, victim, fate):
    """One that is stopped keeps its connections, and is killed by the supervisor before it goes on."""
    asyncio.run(until_all_are_ready(served))
    audio, cut = recordings["short"].samples, 4 * SAMPLE_RATE
    undisturbed = speak(served, audio)

    async def one(transport: str, opened: asyncio.Semaphore, killed: asyncio.Event) -> dict:
        async with StreamingClient(served.address, transport=transport, words=True) as client:
            await client.send(audio[:cut].tobytes())
            opened.release()
            await killed.wait()
            await client.send(audio[cut:].tobytes())
            return await asyncio.wait_for(client.close(), AGAIN_SECONDS)

    async def kill_one() -> list[dict]:
        opened, killed = asyncio.Semaphore(0), asyncio.Event()
        streams = [asyncio.create_task(one(transport, opened, killed)) for transport in ("webrtc", "websocket") * 2]
        for _ in streams:
            await opened.acquire()
        before = processes_of(served)[victim]
        os.kill(before[0], fate)
        killed.set()
        said = await asyncio.gather(*streams)
        await until(lambda: before[0] not in processes_of(served)[victim], "new process")
        return said

    for final in asyncio.run(kill_one()):
        assert final["op"] == "final" and normalise(final["text"]) == normalise(undisturbed)
        assert final["audio_ms"] == len(audio) * 1000 // SAMPLE_RATE
        assert " ".join(word["w"] for word in final["words"]) == final["text"]


def test_a_gateway_that_is_started_again_refuses_nobody_whom_the_others_could_take(served):
    asyncio.run(until_all_are_ready(served))
    (victim, *_) = processes_of(served)["server.processes.gateway"]
    os.kill(victim, signal.SIGKILL)
    statuses = []

    def has_answered_behind_the_new_one() -> bool:
        is_there = count_listeners(served) == 2
        for _ in range(20):  # whichever of them answers
            with contextlib.suppress(httpx.TransportError):  # it was on its way to the one that is killed
                statuses.append(served.get("/readyz").status_code)
        return is_there

    asyncio.run(until(lambda: count_listeners(served) == 1, "end of a gateway"))
    asyncio.run(until(has_answered_behind_the_new_one, "new gateway"))
    assert set(statuses) == {200}


def test_the_limit_of_sessions_is_of_all_gateways_together(served):
    asyncio.run(until_all_are_ready(served))

    async def fill() -> list[str]:
        refused = []
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(8):
                await stack.enter_async_context(StreamingClient(served.address))
            held = [udp_ports_of(pid) for pid in processes_of(served)["server.processes.gateway"]]
            assert all(ports <= set(UDP_PORTS) for ports in held) and sum(map(len, held)) >= 8, "one range for all gateways"
            await until(lambda: served.get("/readyz").status_code == served.get("/readyz").status_code == 503, "full server")
            await asyncio.sleep(2 * messages.PULSE_SECONDS)  # until every gateway has heard of the others
            for _ in range(4):  # whichever of them answers
                with pytest.raises(StreamError) as error:
                    await stack.enter_async_context(StreamingClient(served.address, refused_seconds=0))
                refused.append(error.value.reason)
        return refused

    assert asyncio.run(fill()) == ["server_full"] * 4


def test_it_stops_in_order(start_server, recordings):
    """SIGTERM: open sessions get their finals, every process ends, the exit status is 0."""
    server = start_server(ASR_WORKERS="2", ASR_TARGET="onnxruntime")
    children = [pid for pids in processes_of(server).values() for pid in pids]

    async def stop_while_streaming() -> dict:
        async with StreamingClient(server.address, resume_seconds=0) as client:
            await client.send(recordings["short"].samples[: 4 * SAMPLE_RATE].tobytes())
            server.process.terminate()
            return await client.outcome()

    final = asyncio.run(stop_while_streaming())
    assert final["op"] == "final" and final["text"]
    assert server.process.wait(timeout=40) == 0
    assert len(children) == 3 and not any(Path(f"/proc/{pid}").exists() for pid in children)
