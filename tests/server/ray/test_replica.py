"""Replicas on Ray Serve: two simulated nodes on this machine, with an engine that hears nothing."""

import asyncio
import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.harness.accuracy import normalise
from benchmarks.servers import free_port
from moonshine_client.client import StreamingClient, transcribe
from runtime.audio import SAMPLE_RATE
from tests.conftest import ENGINES, PROJECT
from tests.server.ray.null_replica import DIRECTORY_VARIABLE

pytestmark = [pytest.mark.cluster, pytest.mark.server]
ray = pytest.importorskip("ray")

PLACES = 8
DRAIN_SECONDS = 30.0
AGAIN_SECONDS = 40.0
QUIET = np.zeros(SAMPLE_RATE, np.int16).tobytes()  # a second of it


class TwoNodes:
    """A cluster of two nodes, 127.0.0.2 and 127.0.0.3, and what is deployed on it."""

    def __init__(self, port: int, replicas: Path, lose_a_node: Callable[[], None]):
        self.address, self._replicas, self.lose_a_node = f"127.0.0.1:{port}", replicas, lose_a_node

    def deploy(self, **arguments: Any) -> None:
        from ray import serve

        from server.ray.replica import build

        serve.run(build({"engine": "tests.server.ray.null_replica:open_null", **arguments}), name="asr", route_prefix="/")

    def deploy_one_a_node(self, patched: pytest.MonkeyPatch) -> None:
        """Anew: Ray only tries to spread replicas that fit beside each other."""
        from ray import serve

        serve.delete("asr")
        patched.setenv("ASR_CPU_THREADS", "0")
        self.deploy(replicas=2)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.address}{path}", trust_env=False)

    def metrics(self) -> str:
        """Of all nodes' agents."""
        ports = [(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]]
        return "".join(httpx.get(f"http://{host}:{port}/metrics", trust_env=False).text for host, port in ports)

    def pid_of(self, replica: str) -> int:
        return int((self._replicas / replica).read_text())

    def is_there(self, replica: str) -> bool:
        return Path(f"/proc/{self.pid_of(replica)}").exists()

    def until_only_others_answer(self, before: set[str]) -> None:
        """One new replica answers while an old one still takes sessions, so the old ones' state is what counts."""
        until(lambda: self.replica_count("STOPPING") == len(before), "old replicas that stop")
        until(lambda: self.get("/readyz").headers["x-asr-replica"] not in before, "new replicas")

    def replica_count(self, state: str) -> int:
        from ray import serve
        from ray.serve.schema import ReplicaState

        return serve.status().applications["asr"].deployments["moonshine-asr"].replica_states.get(ReplicaState(state), 0)

    def until_running(self, count: int) -> None:
        until(lambda: self.replica_count("RUNNING") == count, f"{count} replicas")


def until(holds: Callable[[], bool], what: str) -> None:
    """Other processes offer nothing to wait on."""
    deadline = time.monotonic() + AGAIN_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {AGAIN_SECONDS:g} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[TwoNodes]:
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve.config import HTTPOptions, ProxyLocation

    directory = tmp_path_factory.mktemp("replicas")
    settings = {
        "ASR_MAX_SESSIONS": str(PLACES),
        "ASR_CPU_THREADS": "1",
        "ASR_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "ASR_CONNECT_TIMEOUT_SECONDS": "20",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**settings, "PYTHONPATH": str(PROJECT), DIRECTORY_VARIABLE: str(directory)}.items():
            patched.setenv(name, value)
        nodes = Cluster(
            initialize_head=True, head_node_args={"node_ip_address": "127.0.0.2", "num_cpus": 4, "include_dashboard": False}
        )
        second = nodes.add_node(node_ip_address="127.0.0.3", num_cpus=2, dashboard_agent_listen_port=free_port())
        ray.init(address=nodes.address, log_to_driver=False)
        made = TwoNodes(free_port(), directory, lambda: nodes.remove_node(second, allow_graceful=False))
        port = int(made.address.rpartition(":")[2])
        serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(host="127.0.0.1", port=port))
        yield made
        ray.shutdown()
        nodes.shutdown()


@contextlib.asynccontextmanager
async def speaking(
    cluster: TwoNodes, count: int, transport: str = "webrtc", **named: Any
) -> AsyncIterator[list[StreamingClient]]:
    """So many clients, which came one after the other."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            client = StreamingClient(cluster.address, transport=transport, **named)
            clients.append(await stack.enter_async_context(client))
            await asyncio.sleep(0.1)
        yield clients


def replicas_of(clients: list[StreamingClient]) -> Mapping[str, list[StreamingClient]]:
    found = collections.defaultdict(list)
    for client in clients:
        found[client.ready["replica"]].append(client)
    return found


def sessions_told(cluster: TwoNodes) -> Mapping[str, int]:
    """By replica, as Prometheus would find it."""
    samples = re.findall(r'ray_asr_sessions_open\{[^}]*replica="(\w+)"[^}]*\} (\S+)', cluster.metrics())
    return {replica: int(float(value)) for replica, value in samples}


async def finals(clients: list[StreamingClient]) -> list[int]:
    """How much audio each was heard to the end of, in seconds."""
    done = await asyncio.wait_for(asyncio.gather(*(client.close() for client in clients)), AGAIN_SECONDS)
    assert all(final["op"] == "final" for final in done)
    return [final["audio_ms"] // 1000 for final in done]


class Counted:
    """A way to the proxy that counts what passes."""

    def __init__(self) -> None:
        self.byte_count = 0

    @contextlib.asynccontextmanager
    async def to(self, address: str) -> AsyncIterator[str]:
        host, _, port = address.rpartition(":")

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                self.byte_count += len(data)
                writer.write(data)
            writer.close()

        async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream = await asyncio.open_connection(host, int(port))
            await asyncio.gather(carry(reader, upstream[1]), carry(upstream[0], writer))

        server = await asyncio.start_server(join, "127.0.0.1", 0)
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()


def test_sessions_spread_evenly_and_a_full_cluster_says_so(cluster):
    cluster.deploy(replicas=2)

    async def run() -> None:
        async with speaking(cluster, 12) as clients:
            there = replicas_of(clients)
            assert sorted(map(len, there.values())) in ([5, 7], [6, 6])
            await asyncio.to_thread(
                until, lambda: sessions_told(cluster) == {name: len(there[name]) for name in there}, "metrics"
            )
            async with speaking(cluster, 2 * PLACES - 12, "websocket") as more:
                refused = await asyncio.to_thread(
                    httpx.post,
                    f"http://{cluster.address}/v1/audio/transcriptions",
                    data={"model": "whisper-1"},
                    files={"file": (PROJECT / "samples" / "short.wav").open("rb")},
                    trust_env=False,
                )
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "server_full"
                assert int(refused.headers["retry-after"]) > 0 and refused.headers["x-asr-replica"] in replicas_of(clients)
                await finals(clients + more)

    asyncio.run(run())


def test_media_goes_past_the_proxy(cluster):
    async def run() -> int:
        counted = Counted()
        async with counted.to(cluster.address) as address, StreamingClient(address) as client:
            for _ in range(20):
                await client.send(QUIET)
            assert await finals([client]) == [20]
        return counted.byte_count

    assert asyncio.run(run()) < 20_000 < 20 * len(QUIET)


def test_a_request_about_a_session_finds_its_replica(cluster):
    from aiortc import RTCPeerConnection, RTCSessionDescription
    from aiortc.mediastreams import AudioStreamTrack

    async def run() -> None:
        async with httpx.AsyncClient(base_url=f"http://{cluster.address}", trust_env=False) as http:
            connection = RTCPeerConnection()
            connection.addTrack(AudioStreamTrack())
            await connection.setLocalDescription(await connection.createOffer())
            answer = await http.post(
                "/whip", content=connection.localDescription.sdp, headers={"Content-Type": "application/sdp"}
            )
            await connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            location, replica = answer.headers["location"], answer.headers["x-asr-replica"]
            for _ in range(6):
                captions = await http.get(f"{location}/captions.vtt")
                assert (captions.status_code, captions.headers["x-asr-replica"]) == (200, replica)
            assert (await http.delete(location)).status_code == 200
            await connection.close()

    asyncio.run(run())


def test_a_rolling_update_keeps_every_session_to_its_final(cluster):
    async def run() -> None:
        async with speaking(cluster, 4, resume_seconds=0) as clients:
            before = set(replicas_of(clients))
            await asyncio.gather(*(client.send(QUIET) for client in clients))
            updating = asyncio.create_task(asyncio.to_thread(cluster.deploy, replicas=2, surge_percent=100))
            await asyncio.to_thread(cluster.until_only_others_answer, before)
            async with speaking(cluster, 2) as newcomers:
                assert not set(replicas_of(newcomers)) & before
            await asyncio.gather(*(client.send(QUIET) for client in clients))
            assert await finals(clients) == [2] * 4
            await updating

    asyncio.run(run())


def test_a_socket_that_stays_is_told_and_gets_its_final_when_the_time_is_up(cluster, monkeypatch):
    """Ray itself would wait for it, then kill the replica."""
    monkeypatch.setenv("ASR_DRAIN_SECONDS", "1")
    cluster.deploy(replicas=2)

    async def run() -> None:
        async with speaking(cluster, 2, "websocket", resume_seconds=0) as clients:
            await asyncio.gather(*(client.send(QUIET) for client in clients))
            updating = asyncio.create_task(asyncio.to_thread(cluster.deploy, replicas=2, surge_percent=100))
            done = await asyncio.wait_for(asyncio.gather(*(client.outcome() for client in clients)), AGAIN_SECONDS)
            assert [(final["op"], final["audio_ms"]) for final in done] == [("final", 1000)] * 2
            await updating

    asyncio.run(run())


def test_replicas_come_and_go_with_the_sessions_and_none_is_cut(cluster):
    cluster.deploy(min_replicas=1, max_replicas=2, target=0.5, scale_down_seconds=1)
    cluster.until_running(1)

    async def run() -> None:
        async with speaking(cluster, 6, resume_seconds=0) as clients:
            await asyncio.to_thread(cluster.until_running, 2)
            async with speaking(cluster, 1, resume_seconds=0) as (late,):
                assert late.ready["replica"] not in replicas_of(clients), "the emptier one"
                await finals(clients[1:])
                await asyncio.to_thread(cluster.until_running, 1)  # one of them drains
                for client in (clients[0], late):
                    await client.send(QUIET)
                assert await finals([clients[0], late]) == [1, 1]

    asyncio.run(run())


@pytest.mark.parametrize("loses", ["a replica", "a node"])
def test_what_is_lost_takes_only_its_own_sessions_and_those_go_on_elsewhere(cluster, loses, monkeypatch):
    cluster.deploy_one_a_node(monkeypatch)
    cluster.until_running(2)

    async def run() -> None:
        async with speaking(cluster, 4) as clients:
            await asyncio.gather(*(client.send(QUIET) for client in clients))
            there = replicas_of(clients)
            assert len(there) == 2
            lost = await asyncio.to_thread(end_one, list(there))
            spared = [client for name in there if name != lost for client in there[name]]
            assert await finals(spared) == [1] * len(spared)
            await asyncio.gather(*(client.send(QUIET) for client in there[lost]))
            assert await finals(there[lost]) == [2] * len(there[lost]), "heard again elsewhere"
            assert lost not in replicas_of(there[lost])

    def end_one(names: list[str]) -> str:
        if loses == "a replica":
            os.kill(cluster.pid_of(names[0]), signal.SIGKILL)
            return names[0]
        cluster.lose_a_node()
        until(lambda: not all(map(cluster.is_there, names)), "end of a node")
        return next(name for name in names if not cluster.is_there(name))

    asyncio.run(run())


# The command, with real weights


@pytest.fixture
def commanded(built, tmp_path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Two replicas on this machine, as the command starts them: their address, and the command."""
    built("fp32")
    port, log = free_port(), tmp_path / "log"
    variables = {
        "ASR_HOST": "127.0.0.1",
        "ASR_PORT": str(port),
        "ASR_ENGINE_DIR": str(ENGINES),
        "MOONSHINE_PRECISION": "fp32",
        "ASR_TARGET": "onnxruntime",
        "ASR_CONNECT_TIMEOUT_SECONDS": "20",
    }
    command = [Path(sys.executable).with_name("moonshine-asr"), "cluster"]
    process = subprocess.Popen(command, cwd=PROJECT, env=os.environ | variables, stdout=log.open("w"), stderr=subprocess.STDOUT)
    until(lambda: f"serving on http://127.0.0.1:{port}" in log.read_text() or process.poll() is not None, "cluster")
    assert process.poll() is None, log.read_text()[-2000:]
    yield f"127.0.0.1:{port}", process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    assert process.wait(AGAIN_SECONDS) == 0


@pytest.mark.engine
@pytest.mark.slow
def test_a_replica_that_is_killed_costs_nobody_a_word_and_ctrl_c_gives_finals(commanded, recordings):
    address, process = commanded
    audio, cut = recordings["short"].samples, 4 * SAMPLE_RATE

    async def run() -> tuple[str, list[dict]]:
        undisturbed = await transcribe(address, audio)
        async with contextlib.AsyncExitStack() as stack:
            clients: list[StreamingClient] = []
            while len(replicas_of(clients)) < 2:  # the one before may still be counted
                clients.append(await stack.enter_async_context(StreamingClient(address, words=True)))
            await asyncio.gather(*(client.send(audio[:cut].tobytes()) for client in clients))
            os.kill(replica_processes()[0], signal.SIGKILL)
            await asyncio.gather(*(client.send(audio[cut:].tobytes()) for client in clients))
            return undisturbed.final["text"], await asyncio.gather(*(client.close() for client in clients))

    text, done = asyncio.run(run())

    async def stay() -> dict:
        async with StreamingClient(address, transport="websocket", resume_seconds=0) as client:
            await client.send(audio.tobytes())
            await asyncio.sleep(1.0)  # for it to be heard on the other side of two proxies
            process.send_signal(signal.SIGINT)
            return await asyncio.wait_for(client.outcome(), AGAIN_SECONDS)

    done.append(asyncio.run(stay()))
    for final in done[:-1]:
        assert final["op"] == "final" and normalise(final["text"]) == normalise(text)
        assert " ".join(word["w"] for word in final["words"]) == final["text"]
    assert done[-1]["op"] == "final" and done[-1]["audio_ms"] == len(audio) // 16


def replica_processes() -> list[int]:
    """Of every cluster on this machine."""
    names = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()}
    return [pid for pid, name in names.items() if name.startswith(b"ray::ServeReplica")]
